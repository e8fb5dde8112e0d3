//! Reservations of a logical unit: PERSISTENT RESERVE IN/OUT (SPC-4 section 5.13) and RESERVE/RELEASE (SPC-2 section 5.5.1).
//!
//! * `state`: what is kept and what service actions do to it; `conflict`: what it keeps out; `parameters`: the bytes.
//! * This module: one [`Reservations`] per logical unit, shared by all sessions.
//!
//! Invariants
//! * A change counts, and is answered, when the device keeps it ([`BlockDevice::save_state`], for a volume its Raft log). So a
//!   new target begins with everything that any initiator was told. A target restart is no power loss: persistent
//!   reservations outlive it with and without APTPL, as do unit attentions of reservations that were not reported yet.
//! * A change whose fate is unknown (the group lost its majority meanwhile) is settled before the next one: what is in
//!   memory is saved again first.
//! * Nothing is read or written before the kept state is known.
//! * RESERVE ends with its I_T nexus, so a restarted target has none; initiators are told of that by their unit attention.

mod conflict;
mod parameters;
mod state;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::OnceCell;

use self::conflict::{Needs, conflicts, needs};
use self::parameters::{ReserveOut, parse};
use self::state::{News, Refusal, State};
use super::command::{Command, ReserveIn};
use super::port::InitiatorPort;
use super::sense::{Sense, SenseKey, code, device_error};
use super::{Completion, Status};
use crate::block_device::{BlockDevice, DeviceError};

/// First byte of what is kept: the version of the form.
const FORM: u8 = 1;

/// The reservations of one logical unit.
#[derive(Debug, Default)]
pub struct Reservations {
    inner: Mutex<Inner>,
    /// Commands have to be checked against something.
    busy: AtomicBool,
    loaded: OnceCell<()>,
    /// Held from a change's decision until it is kept.
    changing: tokio::sync::Mutex<Doubt>,
}

/// The last change may or may not be kept.
#[derive(Debug, Default)]
struct Doubt(bool);

#[derive(Debug, Default)]
struct Inner {
    state: State,
    /// Who holds RESERVE.
    reserved: Option<InitiatorPort>,
}

impl Reservations {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Changed in single steps only.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something, and with it whether commands have to be checked.
    fn change<R>(&self, change: impl FnOnce(&mut Inner) -> R) -> R {
        let mut inner = self.lock();
        let result = change(&mut inner);
        let busy = inner.state.reservation.is_some() || inner.state.has_news() || inner.reserved.is_some();
        self.busy.store(busy, Ordering::Release);
        result
    }

    /// Takes up what the last target kept.
    async fn load<D: BlockDevice>(&self, device: &D) -> Result<(), DeviceError> {
        let load = async {
            let kept = device.load_state().await?;
            let state = decode(&kept)?;
            self.change(|inner| inner.state = state);
            Ok(())
        };
        self.loaded.get_or_try_init(|| load).await.copied()
    }

    /// Passes a command, or refuses it: unit attention first, then the conflict.
    pub(super) async fn admit<D: BlockDevice>(
        &self,
        device: &D,
        port: &InitiatorPort,
        command: &Command,
    ) -> Result<(), Completion> {
        let needs = needs(command);
        if matches!(needs, Needs::Read | Needs::Write | Needs::Own) && !self.loaded.initialized() {
            self.load(device).await.map_err(|error| device_error(&error))?;
        }
        if needs == Needs::Nothing || !self.busy.load(Ordering::Acquire) {
            return Ok(());
        }
        if let Some(sense) = self.take_attention(port) {
            return Err(Completion::check(sense));
        }
        let inner = self.lock();
        let reserved = inner.reserved.as_ref().is_some_and(|holder| holder != port);
        if (reserved && needs != Needs::Own) || conflicts(&inner.state, port, needs) {
            return Err(Completion::conflict());
        }
        Ok(())
    }

    /// A unit attention for this initiator. It is told once by this target; the next one may tell it again, because that it was
    /// told is kept only with the next change.
    pub(super) fn take_attention(&self, port: &InitiatorPort) -> Option<Sense> {
        if !self.busy.load(Ordering::Acquire) {
            return None;
        }
        let code = match self.change(|inner| inner.state.take_news(port))? {
            News::ReservationsPreempted => code::RESERVATIONS_PREEMPTED,
            News::ReservationsReleased => code::RESERVATIONS_RELEASED,
            News::RegistrationsPreempted => code::REGISTRATIONS_PREEMPTED,
        };
        Some(Sense::new(SenseKey::UnitAttention, code))
    }

    /// PERSISTENT RESERVE IN.
    pub(super) async fn report<D: BlockDevice>(&self, device: &D, what: ReserveIn, allocation: u32) -> Completion {
        // What is told has to be what is kept.
        let mut doubt = self.changing.lock().await;
        if let Err(error) = self.settle(device, &mut doubt).await {
            return device_error(&error);
        }
        let inner = self.lock();
        if inner.reserved.is_some() {
            return Completion::conflict();
        }
        Completion::parameters(parameters::report(&inner.state, what), allocation)
    }

    /// PERSISTENT RESERVE OUT.
    pub(super) async fn service<D: BlockDevice>(
        &self,
        device: &D,
        port: &InitiatorPort,
        (action, scope_and_type, length): (u8, u8, u32),
        list: &[u8],
    ) -> Completion {
        let out = match parse(action, scope_and_type, length, list) {
            Ok(out) => out,
            Err(sense) => return Completion::check(sense),
        };
        let mut doubt = self.changing.lock().await;
        if let Err(error) = self.settle(device, &mut doubt).await {
            return device_error(&error);
        }
        let mut new = {
            let inner = self.lock();
            if inner.reserved.is_some() {
                return Completion::conflict();
            }
            inner.state.clone()
        };
        let mut abort = Vec::new();
        let done = match out {
            ReserveOut::Register(what) => new.register(port, &what),
            ReserveOut::Reserve { key, kind } => new.reserve(port, key, kind),
            ReserveOut::Release { key, kind } => new.release(port, key, kind),
            ReserveOut::Clear { key } => new.clear(port, key),
            ReserveOut::Move(what) => new.register_and_move(port, &what),
            ReserveOut::Preempt { key, victims, kind, abort: aborting } => {
                new.preempt(port, key, victims, kind).map(|lost| abort = if aborting { lost } else { Vec::new() })
            }
        };
        match done {
            Ok(()) => {}
            Err(Refusal::Conflict) => return Completion::conflict(),
            Err(Refusal::Sense(sense)) => return Completion::check(sense),
        }
        if self.lock().state != new {
            doubt.0 = true;
            if let Err(error) = device.save_state(encode(&new)).await {
                return device_error(&error);
            }
            doubt.0 = false;
            self.change(|inner| inner.state = new);
        }
        Completion { abort, ..Completion::good() }
    }

    /// Makes sure that what is in memory is what is kept.
    async fn settle<D: BlockDevice>(&self, device: &D, doubt: &mut Doubt) -> Result<(), DeviceError> {
        if doubt.0 {
            let state = encode(&self.lock().state);
            device.save_state(state).await?;
            doubt.0 = false;
        }
        Ok(())
    }

    /// RESERVE(6), RESERVE(10).
    pub(super) async fn reserve(&self, port: &InitiatorPort) -> Completion {
        let _no_registration_meanwhile = self.changing.lock().await;
        self.change(|inner| {
            let free = inner.reserved.as_ref().is_none_or(|holder| holder == port);
            if !free || !inner.state.registrations.is_empty() {
                return Completion::conflict();
            }
            inner.reserved = Some(port.clone());
            Completion::good()
        })
    }

    /// RELEASE(6), RELEASE(10): of what is not reserved, or not by this initiator, it does nothing.
    pub(super) fn release(&self, port: &InitiatorPort) -> Completion {
        self.change(|inner| {
            let ours = inner.reserved.take_if(|holder| holder == port).is_some();
            if ours || inner.state.registrations.is_empty() { Completion::good() } else { Completion::conflict() }
        })
    }

    /// A logical unit reset ends RESERVE, and no persistent reservation.
    pub fn reset(&self) {
        self.change(|inner| inner.reserved = None);
    }

    /// The session of this port ended.
    pub fn nexus_lost(&self, port: &InitiatorPort) {
        self.change(|inner| _ = inner.reserved.take_if(|holder| holder == port));
    }
}

impl Completion {
    /// RESERVATION CONFLICT.
    fn conflict() -> Self {
        Self { status: Status::ReservationConflict, ..Self::good() }
    }
}

fn encode(state: &State) -> Bytes {
    let mut out = vec![FORM];
    // Writing to a Vec cannot fail, and the type has nothing that postcard refuses.
    out.extend(postcard::to_stdvec(state).unwrap_or_default());
    out.into()
}

fn decode(kept: &[u8]) -> Result<State, DeviceError> {
    let unknown = |why: String| {
        DeviceError::Internal(format!("the volume's reservations cannot be read ({why}); serve it with a newer target"))
    };
    match kept.split_first() {
        None => Ok(State::default()),
        Some((&FORM, rest)) => postcard::from_bytes(rest).map_err(|error| unknown(error.to_string())),
        Some((form, _)) => Err(unknown(format!("form {form}"))),
    }
}
