//! Tables for people. What is not known is a `-`, never an old value.

use comfy_table::{CellAlignment, Table};

use crate::report::{PoolReport, ProcessReport, StatusReport, VolumeReport};
use crate::size::ByteSize;

/// All of `ballast status`.
pub(crate) fn status(report: &StatusReport) -> String {
    format!(
        "target {}   data {}\n\n{}\n{}\n{}",
        report.portal,
        report.data_dir,
        processes(&report.processes),
        pools(&report.pools),
        volumes(&report.volumes)
    )
}

/// The children.
fn processes(processes: &[ProcessReport]) -> String {
    let rows = processes.iter().map(|process| {
        vec![
            process.name.clone(),
            process.state.to_string().to_lowercase(),
            or_dash(process.pid),
            process.restarts.to_string(),
            or_dash(process.last_exit.as_ref()),
        ]
    });
    render(&["PROCESS", "STATE", "PID", "RESTARTS", "LAST EXIT"], &[2, 3], rows)
}

/// `ballast pool list`
pub(crate) fn pools(pools: &[PoolReport]) -> String {
    let rows = pools.iter().map(|pool| {
        vec![
            pool.name.clone(),
            with_detail(&pool.state, &pool.detail),
            size(pool.allocated_bytes),
            size(pool.free_bytes),
            size(pool.capacity_bytes),
            or_dash(pool.replicas),
            pool.devices.iter().map(|device| device.path.as_str()).collect::<Vec<_>>().join("\n"),
        ]
    });
    render(&["POOL", "STATE", "ALLOCATED", "FREE", "CAPACITY", "REPLICAS", "DEVICES"], &[2, 3, 4, 5], rows)
}

/// `ballast volume list`: one line for each replica.
pub(crate) fn volumes(volumes: &[VolumeReport]) -> String {
    let rows = volumes.iter().map(|volume| {
        let replicas = volume.replicas.iter().map(|replica| {
            let index = replica.applied_index.map_or_else(String::new, |index| format!(" @{index}"));
            let line = format!("{} {}{index}", replica.pool, replica.role);
            with_detail(&line, &replica.detail)
        });
        vec![
            volume.name.clone(),
            ByteSize(volume.size_bytes).to_string(),
            with_detail(&volume.state, &volume.detail),
            volume.target_state.clone(),
            or_dash(volume.sessions),
            replicas.collect::<Vec<_>>().join("\n"),
            volume.iqn.clone(),
        ]
    });
    render(&["VOLUME", "SIZE", "STATE", "TARGET", "SESSIONS", "REPLICAS", "IQN"], &[1, 4], rows)
}

/// Plain columns; those in `right` are numbers.
pub(crate) fn render(header: &[&str], right: &[usize], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header.to_vec());
    table.add_rows(rows);
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let text = table.to_string();
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn with_detail(value: &impl std::fmt::Display, detail: &str) -> String {
    if detail.is_empty() { value.to_string() } else { format!("{value} ({detail})") }
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn size(bytes: Option<u64>) -> String {
    or_dash(bytes.map(ByteSize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{PoolState, ReplicaReport, VolumeState};

    #[test]
    fn unknown_values_are_dashes() {
        let pool: PoolReport = serde_json::from_value(serde_json::json!({
            "name": "pool-0", "state": "Unknown", "detail": "does not answer", "devices": []
        }))
        .unwrap();
        assert_eq!(pool.state, PoolState::Unknown);
        let text = pools(&[pool]);
        let line = text.lines().nth(1).unwrap();
        assert!(line.contains("Unknown (does not answer)"), "{text}");
        assert_eq!(line.split_whitespace().filter(|word| *word == "-").count(), 4, "{text}");
    }

    #[test]
    fn every_replica_has_its_line() {
        let replica = |pool: &str, role: &str, index| ReplicaReport {
            pool: pool.to_owned(),
            replica: 1,
            role: role.to_owned(),
            applied_index: index,
            last_index: index,
            allocated_bytes: None,
            detail: String::new(),
        };
        let volume = VolumeReport {
            name: "demo".to_owned(),
            id: String::new(),
            iqn: "iqn.x:demo".to_owned(),
            size_bytes: 1 << 30,
            state: VolumeState::Degraded,
            detail: "1 of 2 replicas take part".to_owned(),
            target_state: "online".to_owned(),
            sessions: Some(1),
            epoch: Some(2),
            replicas: vec![replica("pool-0", "leader", Some(7)), replica("pool-1", "unknown", None)],
        };
        let text = volumes(&[volume]);
        assert!(text.contains("pool-0 leader @7") && text.contains("pool-1 unknown\n"), "{text}");
        assert!(text.contains("1 GiB") && text.contains("iqn.x:demo"), "{text}");
    }
}
