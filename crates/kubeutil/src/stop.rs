//! How work hears that it should end.

use tokio::sync::watch;

/// Tells to stop, once and for all; also by being dropped.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// Hears it. Clones hear the same.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// The two ends.
    pub fn pair() -> (Stopper, Self) {
        let (sender, receiver) = watch::channel(false);
        (Stopper(sender), Self(receiver))
    }

    /// Waits until work should end.
    pub async fn requested(mut self) {
        // An error means that the other end was dropped.
        let _ = self.0.wait_for(|stop| *stop).await;
    }

    /// Whether work should end.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

impl Stopper {
    /// Work should end now.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn told_or_dropped() {
        let (stopper, stop) = Stop::pair();
        let late = stop.clone();
        assert!(!stop.is_requested());
        stopper.stop();
        stop.requested().await;
        assert!(late.is_requested());
        let (stopper, stop) = Stop::pair();
        drop(stopper);
        assert!(stop.is_requested());
        stop.requested().await;
    }
}
