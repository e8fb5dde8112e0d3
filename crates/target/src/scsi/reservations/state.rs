//! What is kept of persistent reservations, and what each service action does to it (SPC-4 section 5.13). Pure.
//!
//! Invariants
//! * Whoever holds the reservation is registered: the last registration of a holder takes the reservation with it.
//! * The generation counts every change of registrations (section 5.13.6), and nothing else.
//! * All of it fits into what a device keeps: [`MAX_REGISTRATIONS`] and [`MAX_ATTENTIONS`] bound it.

use serde::{Deserialize, Serialize};

use crate::scsi::port::InitiatorPort;
use crate::scsi::sense::{Sense, code};

/// Registrations of one logical unit: a cluster of 32 nodes with four paths each.
pub(super) const MAX_REGISTRATIONS: usize = 128;
/// Unit attentions kept for initiators that were not there.
const MAX_ATTENTIONS: usize = 64;

/// Types of persistent reservations (SPC-4 table 65).
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub(super) enum Kind {
    WriteExclusive = 1,
    ExclusiveAccess = 3,
    WriteExclusiveRegistrants = 5,
    ExclusiveAccessRegistrants = 6,
    WriteExclusiveAll = 7,
    ExclusiveAccessAll = 8,
}

impl Kind {
    /// From a CDB's SCOPE and TYPE; only the scope of a logical unit is left.
    pub(super) fn from_cdb(scope_and_type: u8) -> Result<Self, Sense> {
        if scope_and_type >> 4 != 0 {
            return Err(Sense::bit(2, 7));
        }
        Ok(match scope_and_type & 0x0f {
            1 => Self::WriteExclusive,
            3 => Self::ExclusiveAccess,
            5 => Self::WriteExclusiveRegistrants,
            6 => Self::ExclusiveAccessRegistrants,
            7 => Self::WriteExclusiveAll,
            8 => Self::ExclusiveAccessAll,
            _ => return Err(Sense::bit(2, 3)),
        })
    }

    /// Every registrant holds the reservation.
    pub(super) fn is_held_by_all(self) -> bool {
        matches!(self, Self::WriteExclusiveAll | Self::ExclusiveAccessAll)
    }

    /// Every registrant may do what the holder may.
    pub(super) fn is_open_to_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Others may read.
    pub(super) fn is_write_exclusive(self) -> bool {
        matches!(self, Self::WriteExclusive | Self::WriteExclusiveRegistrants | Self::WriteExclusiveAll)
    }
}

/// What an initiator has to be told of another one's doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum News {
    ReservationsPreempted,
    ReservationsReleased,
    RegistrationsPreempted,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Registration {
    pub(super) port: InitiatorPort,
    pub(super) key: u64,
    /// Registered for all target ports, of which there is one.
    pub(super) all_ports: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reservation {
    pub(super) kind: Kind,
    /// Whose; of no meaning when all registrants hold it.
    holder: InitiatorPort,
}

/// The state of one logical unit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) generation: u32,
    /// Activate Persist Through Power Loss, as the last registration asked. It is only told: the state always lasts.
    pub(super) persist: bool,
    pub(super) registrations: Vec<Registration>,
    pub(super) reservation: Option<Reservation>,
    news: Vec<(InitiatorPort, News)>,
}

/// Why a service action has no effect.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// RESERVATION CONFLICT status.
    Conflict,
    /// CHECK CONDITION.
    Sense(Sense),
}

impl From<Sense> for Refusal {
    fn from(sense: Sense) -> Self {
        Self::Sense(sense)
    }
}

pub(super) type Done = Result<(), Refusal>;

/// What REGISTER says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Register {
    pub(super) key: u64,
    pub(super) new: u64,
    /// REGISTER AND IGNORE EXISTING KEY.
    pub(super) ignore: bool,
    pub(super) all_ports: bool,
    pub(super) persist: bool,
    /// SPEC_I_PT: these as well.
    pub(super) also: Vec<InitiatorPort>,
}

/// What REGISTER AND MOVE says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) key: u64,
    pub(super) new: u64,
    pub(super) unregister: bool,
    pub(super) persist: bool,
    pub(super) to: InitiatorPort,
}

impl State {
    pub(super) fn key_of(&self, port: &InitiatorPort) -> Option<u64> {
        self.registrations.iter().find(|r| r.port == *port).map(|r| r.key)
    }

    pub(super) fn holds(&self, port: &InitiatorPort) -> bool {
        self.reservation.as_ref().is_some_and(|reservation| {
            if reservation.kind.is_held_by_all() { self.key_of(port).is_some() } else { reservation.holder == *port }
        })
    }

    /// The reservation key of the reservation: 0 when all registrants hold it (SPC-4 section 6.15.3.2).
    pub(super) fn holders_key(&self) -> u64 {
        match &self.reservation {
            Some(reservation) if !reservation.kind.is_held_by_all() => self.key_of(&reservation.holder).unwrap_or(0),
            _ => 0,
        }
    }

    pub(super) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// The oldest thing that an initiator has to be told; it is told once.
    pub(super) fn take_news(&mut self, port: &InitiatorPort) -> Option<News> {
        let at = self.news.iter().position(|(to, _)| to == port)?;
        Some(self.news.remove(at).1)
    }

    fn tell(&mut self, to: &InitiatorPort, what: News) {
        let news = (to.clone(), what);
        if !self.news.contains(&news) {
            self.news.push(news);
        }
        if self.news.len() > MAX_ATTENTIONS {
            self.news.remove(0);
        }
    }

    fn tell_others(&mut self, but: &InitiatorPort, what: News) {
        let others: Vec<_> = self.registrations.iter().map(|r| r.port.clone()).filter(|port| port != but).collect();
        others.iter().for_each(|port| self.tell(port, what));
    }

    fn check_key(&self, port: &InitiatorPort, key: u64) -> Done {
        if self.key_of(port) == Some(key) { Ok(()) } else { Err(Refusal::Conflict) }
    }

    fn put(&mut self, port: &InitiatorPort, key: u64, all_ports: bool) -> Done {
        if let Some(old) = self.registrations.iter_mut().find(|r| r.port == *port) {
            (old.key, old.all_ports) = (key, all_ports);
            return Ok(());
        }
        if self.registrations.len() >= MAX_REGISTRATIONS {
            return Err(Sense::illegal(code::NO_REGISTRATION_ROOM).into());
        }
        self.registrations.push(Registration { port: port.clone(), key, all_ports });
        Ok(())
    }

    /// Removes a registration. The reservation goes with its holder, or with the last of all holders (section 5.13.11.2).
    fn remove(&mut self, port: &InitiatorPort) {
        self.registrations.retain(|r| r.port != *port);
        let Some(reservation) = &self.reservation else { return };
        let kind = reservation.kind;
        let released = if kind.is_held_by_all() { self.registrations.is_empty() } else { reservation.holder == *port };
        if released {
            self.reservation = None;
            if kind.is_open_to_registrants() {
                self.tell_others(port, News::ReservationsReleased);
            }
        }
    }

    /// REGISTER, REGISTER AND IGNORE EXISTING KEY (section 5.13.7).
    pub(super) fn register(&mut self, port: &InitiatorPort, what: &Register) -> Done {
        let known = self.key_of(port);
        if !what.ignore && known.unwrap_or(0) != what.key {
            return Err(Refusal::Conflict);
        }
        if !what.also.is_empty() && known.is_some() {
            return Err(Sense::parameter(20).into()); // SPEC_I_PT is for those who register for the first time
        }
        if what.also.contains(port) {
            return Err(Sense::parameter(28).into());
        }
        match (known, what.new) {
            (None, 0) => return Ok(()), // nothing to remove; no change, so no new generation
            (Some(_), 0) => self.remove(port),
            (_, new) => {
                if what.also.iter().any(|other| self.key_of(other).is_some()) {
                    return Err(Refusal::Conflict);
                }
                self.put(port, new, what.all_ports)?;
                for other in &what.also {
                    self.put(other, new, what.all_ports)?;
                }
            }
        }
        self.persist = what.persist;
        self.generation = self.generation.wrapping_add(1);
        Ok(())
    }

    /// RESERVE (section 5.13.9).
    pub(super) fn reserve(&mut self, port: &InitiatorPort, key: u64, kind: Kind) -> Done {
        self.check_key(port, key)?;
        match &self.reservation {
            Some(old) if self.holds(port) && old.kind == kind => Ok(()),
            Some(_) => Err(Refusal::Conflict),
            None => {
                self.reservation = Some(Reservation { kind, holder: port.clone() });
                Ok(())
            }
        }
    }

    /// RELEASE (section 5.13.11.2.2).
    pub(super) fn release(&mut self, port: &InitiatorPort, key: u64, kind: Kind) -> Done {
        self.check_key(port, key)?;
        let Some(held) = self.reservation.as_ref().filter(|_| self.holds(port)).map(|r| r.kind) else {
            return Ok(()); // not ours: nothing to do, and no error
        };
        if held != kind {
            return Err(Sense::illegal(code::INVALID_RELEASE).into());
        }
        self.reservation = None;
        if kind.is_open_to_registrants() {
            self.tell_others(port, News::ReservationsReleased);
        }
        Ok(())
    }

    /// CLEAR (section 5.13.11.2.7).
    pub(super) fn clear(&mut self, port: &InitiatorPort, key: u64) -> Done {
        self.check_key(port, key)?;
        self.tell_others(port, News::ReservationsPreempted);
        self.registrations.clear();
        self.reservation = None;
        self.generation = self.generation.wrapping_add(1);
        Ok(())
    }

    /// PREEMPT (section 5.13.11.2.4 to 5.13.11.2.6). Returns who lost the registration.
    pub(super) fn preempt(
        &mut self,
        port: &InitiatorPort,
        key: u64,
        victims: u64,
        kind: Kind,
    ) -> Result<Vec<InitiatorPort>, Refusal> {
        self.check_key(port, key)?;
        let by_all = self.reservation.as_ref().is_some_and(|r| r.kind.is_held_by_all());
        let all = victims == 0 && by_all;
        if victims == 0 && !all {
            return Err(Sense::parameter(8).into());
        }
        let takes = all || (self.reservation.is_some() && !by_all && self.holders_key() == victims);
        let matching = |r: &&Registration| all || r.key == victims;
        let mut lost: Vec<_> = self.registrations.iter().filter(matching).map(|r| r.port.clone()).collect();
        if lost.is_empty() {
            return Err(Refusal::Conflict);
        }
        if takes {
            lost.retain(|victim| victim != port); // whoever takes a reservation stays registered
        }
        let old = self.reservation.as_ref().map(|r| r.kind);
        if takes {
            self.reservation = None; // first, so that nobody is told of a release that is none
        }
        for victim in &lost {
            self.remove(victim);
            if victim != port {
                self.tell(victim, News::RegistrationsPreempted);
            }
        }
        if takes {
            self.reservation = Some(Reservation { kind, holder: port.clone() });
            if old != Some(kind) {
                self.tell_others(port, News::ReservationsReleased);
            }
        }
        self.generation = self.generation.wrapping_add(1);
        lost.retain(|victim| victim != port);
        Ok(lost)
    }

    /// REGISTER AND MOVE (section 5.13.8).
    pub(super) fn register_and_move(&mut self, port: &InitiatorPort, what: &Move) -> Done {
        self.check_key(port, what.key)?;
        let kind = match &self.reservation {
            Some(reservation) if !reservation.kind.is_held_by_all() && reservation.holder == *port => reservation.kind,
            _ => return Err(Refusal::Conflict),
        };
        if what.new == 0 {
            return Err(Sense::parameter(8).into());
        }
        if what.to == *port {
            return Err(Sense::parameter(24).into());
        }
        self.put(&what.to, what.new, false)?;
        self.reservation = Some(Reservation { kind, holder: what.to.clone() });
        if what.unregister {
            self.registrations.retain(|r| r.port != *port);
        }
        self.persist = what.persist;
        self.generation = self.generation.wrapping_add(1);
        Ok(())
    }
}
