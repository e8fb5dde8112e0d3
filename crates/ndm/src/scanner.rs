//! One look at the node: reads the trees, the devices and the sparse files, and puts them together.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::Config;
use crate::content::{Content, Probes};
use crate::device::{Selection, devices, path, select};
use crate::error::NdmError;
use crate::plan::Scan;
use crate::smart::Smart;
use crate::sparse;
use crate::tree::{Roots, Tree};

/// How long the devices of a scan may take to answer, all together.
const LIMIT: Duration = Duration::from_secs(15);
/// So many scans wait for udev to look at a new device; then it is taken as the kernel shows it.
const PATIENCE: u32 = 10;

/// Looks at the node.
#[derive(Debug)]
pub struct Scanner {
    node: String,
    roots: Roots,
    config: Config,
    sparse_dir: Option<PathBuf>,
    probes: Probes,
    smart: Option<Smart>,
    waited: u32,
}

impl Scanner {
    /// For a node.
    pub fn new(node: String, roots: Roots, config: Config, sparse_dir: Option<PathBuf>, smart: Option<Smart>) -> Self {
        Self { node, roots, config, sparse_dir, probes: Probes::new(LIMIT), smart, waited: 0 }
    }

    /// Where a device is for this process.
    pub fn device(&self, path: &str) -> PathBuf {
        self.roots.device(path)
    }

    /// Looks at everything.
    pub async fn scan(&mut self) -> Result<(Scan, Selection), NdmError> {
        let roots = self.roots.clone();
        let tree = tokio::task::spawn_blocking(move || Tree::read(&roots)).await??;
        let selection = select(&tree, &self.config, self.waited < PATIENCE);
        self.waited = if selection.unsettled.is_empty() { 0 } else { self.waited + 1 };
        let files = match self.sparse_dir.clone() {
            Some(dir) => tokio::task::spawn_blocking(move || sparse::list(&dir)).await??,
            None => Vec::new(),
        };
        let nodes = selection.listed.iter().map(|name| (name.clone(), self.roots.device(&path(name))));
        let named = files.iter().map(|file| (file.display().to_string(), file.clone()));
        let contents = self.probes.read(nodes.chain(named).collect()).await;
        let mut found = devices(&self.node, &tree, &selection, &contents);
        let health = match &mut self.smart {
            Some(smart) => {
                let disks = found.iter().filter(|device| device.kind == "disk");
                let disks = disks.map(|disk| (disk.path.clone(), self.roots.device(&disk.path)));
                smart.check(&disks.collect::<Vec<_>>()).await
            }
            None => BTreeMap::new(),
        };
        let unread = Content::Unreadable(String::from("it was not read"));
        for file in &files {
            // A file that goes while we look is not there.
            if let Ok(meta) = file.metadata() {
                let content = contents.get(&file.display().to_string()).unwrap_or(&unread);
                found.push(sparse::device(file, meta.len(), content));
            }
        }
        Ok((Scan { devices: found, unsettled: !selection.unsettled.is_empty(), health }, selection))
    }
}
