//! From a CStorVolume to its replicas and its target.
//!
//! `volume` is the controller; `form`, `repair` and `target` act for it; [`view`], [`plan`], [`status`], [`place`] and
//! [`objects`] are pure.

pub(crate) mod form;
pub mod objects;
pub mod place;
pub mod plan;
pub(crate) mod repair;
pub mod status;
pub(crate) mod target;
pub mod view;
pub(crate) mod volume;
