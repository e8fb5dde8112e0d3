//! Data-In and SCSI Response (RFC 7143 sections 11.4 and 11.7): splitting, residuals, status.

use bytes::Bytes;

use super::Session;
use super::tasks::Task;
use crate::iscsi::pdu::{DataIn, Numbers, OutPdu, ScsiResponse};
use crate::scsi::{Completion, Status};

/// Residual overflow and underflow (section 11.4.5).
#[derive(Clone, Copy, Default)]
struct Residual {
    overflow: bool,
    underflow: bool,
    count: u32,
}

impl Residual {
    fn of(task: &Task, completion: &Completion) -> Self {
        let wants = task.command.data_out();
        // What the command moves, against what the initiator offered in that direction.
        let (moves, expected) = match completion.status {
            Status::Good if wants > 0 => (wants, if task.write { task.expected } else { 0 }),
            Status::Good if task.write && !task.read => (0, task.expected),
            Status::Good => (completion.data.len() as u64, if task.read { task.expected } else { 0 }),
            _ if task.read => (0, task.expected),
            _ => return Self::default(),
        };
        let expected = u64::from(expected);
        let count = u32::try_from(moves.abs_diff(expected)).unwrap_or(u32::MAX);
        Self { overflow: moves > expected, underflow: moves < expected, count }
    }
}

impl Session {
    /// Queues all PDUs that end a task which is no longer in the table.
    pub(super) fn respond(&mut self, itt: u32, task: &Task, completion: Completion) {
        let residual = Residual::of(task, &completion);
        let mut data = completion.data;
        data.truncate(if task.read { task.expected as usize } else { 0 });
        let mut data_sn = 0;
        if !data.is_empty() {
            // Section 11.7.3: status may come with the last Data-In when there is no sense data to carry.
            let ended = self.send_data(itt, data, residual, &mut data_sn);
            if ended {
                return;
            }
        }
        let response = ScsiResponse {
            overflow: residual.overflow,
            underflow: residual.underflow,
            response: 0,
            status: completion.status as u8,
            itt,
            numbers: self.take_numbers(),
            exp_data_sn: data_sn + task.r2ts_sent,
            residual: residual.count,
        };
        let sense = match completion.sense {
            None => Bytes::new(),
            Some(sense) => {
                // Section 11.4.7: SenseLength, then the sense data.
                let fixed = sense.fixed();
                let mut segment = Vec::with_capacity(2 + fixed.len());
                segment.extend((fixed.len() as u16).to_be_bytes());
                segment.extend(fixed);
                Bytes::from(segment)
            }
        };
        self.send(OutPdu::new(response.encode(), sense));
    }

    /// Data-In PDUs in sequences of at most MaxBurstLength, each ending with F; true when the status went with it.
    fn send_data(&mut self, itt: u32, mut data: Bytes, residual: Residual, data_sn: &mut u32) -> bool {
        let (segment, burst) = (self.params.max_send_data as usize, self.params.max_burst as usize);
        let (mut offset, mut left_in_burst) = (0, burst);
        loop {
            let n = segment.min(left_in_burst).min(data.len());
            let piece = data.split_to(n);
            left_in_burst -= n;
            let end = data.is_empty();
            let header = DataIn {
                last: end || left_in_burst == 0,
                overflow: end && residual.overflow,
                underflow: end && residual.underflow,
                status: end.then_some(Status::Good as u8),
                itt,
                // Section 11.7.4: StatSN is only there with status.
                numbers: if end { self.take_numbers() } else { Numbers { stat: 0, ..self.numbers() } },
                data_sn: *data_sn,
                offset,
                residual: if end { residual.count } else { 0 },
            };
            self.send(OutPdu::new(header.encode(), piece));
            *data_sn += 1;
            offset += n as u32;
            if end {
                return true;
            }
            if left_in_burst == 0 {
                left_in_burst = burst;
            }
        }
    }
}
