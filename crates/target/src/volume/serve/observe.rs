//! What the process tells of its volumes.

use ballast_api::VolumeId;
use ballast_api::control::{LatencyReport, TargetVolumeStatus, VolumeLatency};
use bytes::Bytes;

use super::{VolumeState, Volumes};

impl VolumeState {
    /// All there are.
    pub(crate) const ALL: [Self; 4] = [Self::Opening, Self::Online, Self::Waiting, Self::Fenced];

    /// As it is told.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Online => "online",
            Self::Waiting => "waiting",
            Self::Fenced => "fenced",
        }
    }
}

impl Volumes {
    /// Every volume, by name.
    pub(super) fn status(&self) -> Vec<TargetVolumeStatus> {
        let mut volumes: Vec<_> = self
            .table()
            .iter()
            .map(|(id, served)| {
                let stats = served.device.stats();
                TargetVolumeStatus {
                    volume: id.to_bytes(),
                    name: served.name.clone(),
                    iqn: served.iqn.clone(),
                    sessions: u32::try_from(self.server.sessions(&served.iqn).len()).unwrap_or(u32::MAX),
                    state: stats.state.name().to_owned(),
                    leader_pool: stats.leader.map(|pool| pool.to_bytes()).unwrap_or_default(),
                    epoch: stats.epoch.0,
                    reads: stats.reads,
                    writes: stats.writes,
                    retries: stats.retries,
                    blocks: served.device.blocks().0,
                    replicas: served.replicas.clone(),
                }
            })
            .collect();
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        volumes
    }

    /// How long the commands of one volume, or of all, took.
    pub(super) fn latencies(&self, which: Option<VolumeId>) -> LatencyReport {
        // The table is not kept while the histograms are copied.
        let served: Vec<_> = {
            let table = self.table();
            let wanted = table.iter().filter(|(id, _)| which.is_none_or(|which| which == **id));
            wanted.map(|(id, served)| (id.to_bytes(), served.name.clone(), served.iqn.clone())).collect()
        };
        let of = |(volume, name, iqn): (Bytes, String, String)| {
            let stages = self.server.latencies(&iqn).into_iter();
            let stages = stages.map(|(kind, stage, snapshot)| snapshot.to_message(kind, stage)).collect();
            VolumeLatency { volume, name, iqn, stages }
        };
        let mut volumes: Vec<_> = served.into_iter().map(of).collect();
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        LatencyReport { target: self.target.to_bytes(), volumes }
    }

    /// All of it for a monitoring system.
    pub(super) fn metrics(&self) -> String {
        crate::metrics::text::render(&self.status(), &self.latencies(None))
    }
}
