//! `ballast ndm --once`: what would be reported, without a cluster.

use serde::Serialize;

use ballast_api::k8s::device::BlockDeviceSpec;

use crate::config::Config;
use crate::device::path;
use crate::error::NdmError;
use crate::options::Options;
use crate::plan::{Gone, Node, Objects, desired};
use crate::scanner::Scanner;
use crate::smart::Smart;

/// What is on this node.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Its name.
    pub node: String,
    /// The devices that would have objects.
    pub devices: Vec<ReportDevice>,
    /// The others.
    pub left_out: Vec<LeftOut>,
}

/// A device that would have an object.
#[derive(Clone, Debug, Serialize)]
pub struct ReportDevice {
    /// Name of the object; one that exists in a cluster already may have another.
    pub name: String,
    /// A pool may have it.
    pub offered: bool,
    /// Why not, or what there is to know.
    pub message: Option<String>,
    /// The pool whose label it carries.
    pub pool: Option<String>,
    /// The object's spec.
    pub spec: BlockDeviceSpec,
}

/// A device that would have none.
#[derive(Clone, Debug, Serialize)]
pub struct LeftOut {
    /// Where it is.
    pub path: String,
    /// Why.
    pub why: String,
}

/// Looks once. Changes nothing, also makes no sparse files.
pub async fn once(options: &Options) -> Result<Report, NdmError> {
    let config = Config::load(options.config.as_deref())?;
    let node = options.node_name();
    let smart = (options.smart && config.smart).then(|| Smart::new("smartctl"));
    let dir = options.sparse_dir.clone().filter(|dir| dir.is_dir());
    let mut scanner = Scanner::new(node.clone(), options.roots(), config, dir, smart);
    let (scan, selection) = scanner.scan().await?;
    let me = Node { name: node.clone(), hostname: node.clone() };
    let (wanted, _) = desired(&me, &scan, &Objects::default(), &Gone::new());
    let devices = wanted.into_iter().map(|wanted| ReportDevice {
        name: wanted.name,
        offered: wanted.pool_id.is_none() && wanted.in_use.is_none(),
        message: wanted.message,
        pool: wanted.pool_id,
        spec: wanted.spec,
    });
    let waiting = selection.unsettled.iter().map(|name| (name, "udev has not looked at it yet"));
    let left_out = selection.left_out.iter().map(|(name, why)| (name, why.as_str()));
    let left_out = left_out.chain(waiting).map(|(name, why)| LeftOut { path: path(name), why: why.to_owned() });
    Ok(Report { node, devices: devices.collect(), left_out: left_out.collect() })
}
