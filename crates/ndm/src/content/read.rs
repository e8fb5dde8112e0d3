//! Reading devices. A disk that hangs must not hang the node disk manager: each one is read on a thread of its own, waited
//! for a while, and not read again before that thread is back. So there is never more than one thread for each device.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ballast_pool::PoolError;
use futures_util::StreamExt as _;
use tokio::task::JoinHandle;

use super::{Content, examine};

/// What is read of each end.
const SPAN: u64 = 1 << 20;
/// Devices that are read at the same time; bounds the memory for it.
const AT_ONCE: usize = 8;

/// Reads one device.
pub fn read(path: &Path) -> Content {
    match ballast_pool::label_of(path) {
        Ok(Some(label)) => return Content::Pool(label),
        Ok(None) => {}
        Err(PoolError::WrongVersion { found, .. }) => return Content::PoolOfOtherVersion(found),
        Err(PoolError::Io { op, source, .. }) => return Content::Unreadable(format!("{op}: {source}")),
        Err(other) => return Content::Unreadable(other.to_string()),
    }
    ends(path).unwrap_or_else(|error| Content::Unreadable(format!("read: {error}")))
}

fn ends(path: &Path) -> std::io::Result<Content> {
    let mut file = File::open(path)?;
    let size = file.seek(SeekFrom::End(0))?;
    let span = SPAN.min(size);
    let mut read = |from: u64| -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; span as usize];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    let (head, tail) = (read(0)?, read(size - span)?);
    Ok(examine(&head, &tail, size))
}

/// Reads many devices, each with a time limit.
#[derive(Debug)]
pub struct Probes {
    limit: Duration,
    running: HashMap<String, JoinHandle<Content>>,
}

impl Probes {
    /// Waits this long for all the devices of one call together.
    pub fn new(limit: Duration) -> Self {
        Self { limit, running: HashMap::new() }
    }

    /// Reads these: name and path.
    pub async fn read(&mut self, devices: Vec<(String, PathBuf)>) -> BTreeMap<String, Content> {
        self.read_with(devices, read).await
    }

    async fn read_with(
        &mut self,
        devices: Vec<(String, PathBuf)>,
        read: fn(&Path) -> Content,
    ) -> BTreeMap<String, Content> {
        let deadline = tokio::time::Instant::now() + self.limit;
        // The answer of a late thread may be older than the device of that name: it only ends the wait.
        self.running.retain(|_, thread| !thread.is_finished());
        let (late, fresh): (Vec<_>, Vec<_>) =
            devices.into_iter().partition(|(name, _)| self.running.contains_key(name));
        let late = late
            .into_iter()
            .map(|(name, _)| (name, Content::Unreadable("it has not answered an earlier read yet".to_owned())));
        let mut contents: BTreeMap<String, Content> = late.collect();
        let no_answer = || Content::Unreadable(format!("no answer within {} s", self.limit.as_secs_f32()));
        let one = |(name, path): (String, PathBuf)| async move {
            if tokio::time::Instant::now() >= deadline {
                return (name, None, None);
            }
            let mut thread = tokio::task::spawn_blocking(move || read(&path));
            match tokio::time::timeout_at(deadline, &mut thread).await {
                Ok(Ok(content)) => (name, Some(content), None),
                Ok(Err(error)) => (name, Some(Content::Unreadable(error.to_string())), None),
                Err(_) => (name, None, Some(thread)),
            }
        };
        let mut answers = futures_util::stream::iter(fresh.into_iter().map(one)).buffer_unordered(AT_ONCE);
        let mut running = Vec::new();
        while let Some((name, content, thread)) = answers.next().await {
            running.extend(thread.map(|thread| (name.clone(), thread)));
            contents.insert(name, content.unwrap_or_else(no_answer));
        }
        drop(answers);
        self.running.extend(running);
        contents
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        File::create(&path).unwrap().set_len(8 << 20).unwrap();
        assert_eq!(read(&path), Content::Blank);
        std::fs::write(&path, b"XFSB").unwrap();
        assert!(matches!(read(&path), Content::Signature { kind: "xfs", .. }));
        assert!(matches!(read(&dir.path().join("missing")), Content::Unreadable(why) if why.contains("open")));
        assert!(matches!(read(dir.path()), Content::Unreadable(_)));
    }

    #[tokio::test]
    async fn a_device_that_hangs_is_read_by_one_thread_only() {
        static HANGS: AtomicBool = AtomicBool::new(true);
        let slow = |path: &Path| {
            while path.ends_with("slow") && HANGS.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
            Content::Blank
        };
        let devices = || vec![("slow".to_owned(), "slow".into()), ("good".to_owned(), PathBuf::from("good"))];
        let mut probes = Probes::new(Duration::from_millis(50));
        for _ in 0..3 {
            let found = probes.read_with(devices(), slow).await;
            assert!(matches!(found["slow"], Content::Unreadable(_)));
            assert_eq!(found["good"], Content::Blank);
            assert_eq!(probes.running.len(), 1);
        }
        HANGS.store(false, Ordering::Relaxed);
        let mut probes = Probes { limit: Duration::from_secs(60), ..probes };
        while !probes.running["slow"].is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(probes.read_with(devices(), slow).await["slow"], Content::Blank);
    }
}
