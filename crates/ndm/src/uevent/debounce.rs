//! Many messages, few scans: a scan is due when it has been quiet for a while, or when the first message is old enough.

use std::time::{Duration, Instant};

/// When the next scan is due because of messages. A few words of memory, however many messages come.
#[derive(Debug)]
pub struct Debounce {
    quiet: Duration,
    longest: Duration,
    /// The first and the last message since the last scan.
    pending: Option<(Instant, Instant)>,
}

impl Debounce {
    /// Waits for this much quiet, but no longer than `longest`.
    pub fn new(quiet: Duration, longest: Duration) -> Self {
        Self { quiet, longest, pending: None }
    }

    /// A message came.
    pub fn note(&mut self, now: Instant) {
        let first = self.pending.map_or(now, |(first, _)| first);
        self.pending = Some((first, now));
    }

    /// When the scan is due.
    pub fn due(&self) -> Option<Instant> {
        self.pending.map(|(first, last)| (last + self.quiet).min(first + self.longest))
    }

    /// A scan starts: it sees everything that was reported until now.
    pub fn clear(&mut self) {
        self.pending = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_secs(5);

    /// Feeds messages at these times; returns the times of the scans.
    fn scans(messages: impl IntoIterator<Item = Duration>) -> Vec<Duration> {
        let start = Instant::now();
        let mut debounce = Debounce::new(QUIET, LONGEST);
        let mut scans = Vec::new();
        let mut run = |debounce: &mut Debounce, until: Option<Instant>| {
            if let Some(due) = debounce.due().filter(|due| until.is_none_or(|until| *due <= until)) {
                scans.push(due - start);
                debounce.clear();
            }
        };
        for at in messages {
            run(&mut debounce, Some(start + at));
            debounce.note(start + at);
        }
        run(&mut debounce, None);
        scans
    }

    #[test]
    fn one_message_one_scan_when_it_is_quiet() {
        assert_eq!(scans([Duration::ZERO]), [QUIET]);
        assert!(scans([]).is_empty());
        let ms = Duration::from_millis;
        assert_eq!(scans([ms(0), ms(100), ms(400), ms(5000)]), [ms(900), ms(5500)]);
    }

    #[test]
    fn ten_thousand_messages_are_a_bounded_number_of_scans() {
        // All within a second: one scan.
        assert_eq!(scans((0..10_000).map(|n| Duration::from_micros(n * 100))).len(), 1);
        // Without a pause for 1000 seconds: one scan every five.
        let found = scans((0..10_000).map(|n| Duration::from_millis(n * 100)));
        assert!((195..=201).contains(&found.len()), "{}", found.len());
        assert!(size_of::<Debounce>() <= 128, "nothing is kept of a message");
    }
}
