//! Asks every process and puts the answers together. Nothing is remembered between two calls.

use std::collections::BTreeMap;

use ballast_api::PoolId;
use ballast_api::control::{PoolStatus, TargetStatus};

use super::health::{Answer, volume_report};
use super::model::Table;
use super::{Cluster, Node};
use crate::report::{DeviceReport, PoolReport, PoolState, ProcessKind, ProcessReport, StatusReport};

impl Cluster {
    /// What is true now. Takes as long as the slowest process, at most a second.
    pub(crate) async fn status(&self) -> StatusReport {
        let table = self.table();
        let ask_pools = futures_util::future::join_all(self.pools().map(async |node| (node, ask_pool(node).await)));
        let (pools, target) = futures_util::future::join(ask_pools, self.ask_target()).await;

        let mut by_id: BTreeMap<PoolId, Answer<PoolStatus>> = BTreeMap::new();
        for (node, answer) in &pools {
            // A pool that answers says who it is; of one that does not, the name tells who it was.
            let id = answer.said().and_then(|status| PoolId::from_slice(&status.pool).ok());
            if let Some(id) = id.or_else(|| table.pool_named(&node.name).map(|pool| pool.id)) {
                by_id.insert(id, answer.clone());
            }
        }
        let mut volumes: Vec<_> = table
            .live()
            .map(|volume| {
                let served = target.clone().map(|status: TargetStatus| {
                    status.volumes.into_iter().find(|served| served.volume[..] == volume.id.as_bytes()[..])
                });
                volume_report(volume, &table, &by_id, &served)
            })
            .collect();
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        let portal = target.said().map(|status| status.portal.clone()).filter(|portal| !portal.is_empty());
        StatusReport {
            portal: portal.unwrap_or_else(|| self.portal.to_string()),
            data_dir: self.dir.root().display().to_string(),
            processes: self.nodes().iter().map(process_report).collect(),
            volumes,
            pools: pools.into_iter().map(|(node, answer)| pool_report(node, answer, &table)).collect(),
        }
    }

    async fn ask_target(&self) -> Answer<TargetStatus> {
        match self.nodes().iter().find(|node| node.kind == ProcessKind::Target) {
            Some(node) if node.runs() => node.rpc.target_status().await.map_or(Answer::Silent, Answer::Said),
            _ => Answer::Down,
        }
    }
}

async fn ask_pool(node: &Node) -> Answer<PoolStatus> {
    if !node.runs() {
        return Answer::Down;
    }
    node.rpc.pool_status().await.map_or(Answer::Silent, Answer::Said)
}

fn process_report(node: &Node) -> ProcessReport {
    let status = node.status.borrow();
    ProcessReport {
        name: node.name.clone(),
        kind: node.kind,
        pid: status.pid,
        state: status.state,
        restarts: status.starts.saturating_sub(1),
        last_exit: status.last_exit.clone(),
    }
}

fn pool_report(node: &Node, answer: Answer<PoolStatus>, table: &Table) -> PoolReport {
    let known_id = table.pool_named(&node.name).map(|pool| pool.id.to_string());
    let (state, detail, status) = match answer {
        Answer::Said(status) => {
            let sick = status.devices.iter().filter(|device| !device.healthy);
            let sick: Vec<String> = sick.map(|device| format!("{}: {}", device.path, device.detail)).collect();
            let state = if sick.is_empty() { PoolState::Online } else { PoolState::Degraded };
            (state, sick.join("; "), Some(status))
        }
        Answer::Silent => (PoolState::Unknown, "does not answer".to_owned(), None),
        Answer::Down => {
            let exit = node.status.borrow().last_exit.clone();
            (PoolState::Offline, exit.unwrap_or_else(|| "not started".to_owned()), None)
        }
    };
    let said = status.as_ref();
    let devices = match said.filter(|status| !status.devices.is_empty()) {
        Some(status) => status
            .devices
            .iter()
            .map(|device| DeviceReport {
                path: device.path.clone(),
                bytes: Some(device.bytes),
                healthy: Some(device.healthy),
                detail: device.detail.clone(),
            })
            .collect(),
        None => node
            .devices
            .iter()
            .map(|path| DeviceReport {
                path: path.display().to_string(),
                bytes: None,
                healthy: None,
                detail: String::new(),
            })
            .collect(),
    };
    PoolReport {
        name: node.name.clone(),
        id: said.and_then(|s| PoolId::from_slice(&s.pool).ok()).map(|id| id.to_string()).or(known_id),
        state,
        detail,
        layout: said.map(|s| s.layout.clone()),
        capacity_bytes: said.map(|s| s.capacity_bytes),
        allocated_bytes: said.map(|s| s.allocated_bytes),
        free_bytes: said.map(|s| s.free_bytes),
        journal_bytes: said.map(|s| s.journal_bytes),
        journal_used_bytes: said.map(|s| s.journal_used_bytes),
        replicas: said.map(|s| s.replicas.len() as u64),
        devices,
        device_bytes_written: said.map(|s| s.device_bytes_written),
        prepare_bytes_written: said.map(|s| s.prepare_bytes_written),
        payload_bytes_written: said.map(|s| s.payload_bytes_written),
        checkpoint_bytes_written: said.map(|s| s.checkpoint_bytes_written),
        device_flushes: said.map(|s| s.device_flushes),
    }
}
