//! The contract every part of Tenantry shares: ids, ring, placement, directory, catalog, guard.
//!
//! What is pure stands at the top: [`tenant`], [`shard`], [`pin`], [`ring`], [`directory`] and [`fleet`] do no IO. [`snapshot`]
//! keeps a fleet in a file, [`catalog`] is the client of the database that holds the truth about it, and [`follow`]
//! keeps a fleet current from there.

pub mod catalog;
pub mod causes;
pub mod change;
pub mod control;
pub mod directory;
pub mod fleet;
pub mod follow;
pub mod guard;
pub mod limits;
pub mod names;
pub mod pin;
pub mod ring;
pub mod secrets;
pub mod shard;
pub mod snapshot;
pub mod storefront;
pub mod tenant;
