//! The protocol under two checkers: `explored` walks through small configurations whole, `simulator` through long random
//! histories of larger ones. Both drive the very machines that the server runs, in one `world`; `mistakes` plants mistakes that they
//! must notice.
#![allow(clippy::pedantic, clippy::expect_used, clippy::panic, reason = "a failure here is a failed test")]

mod archive_answers;
mod archive_explored;
mod archive_rounds;
mod archive_world;
mod chance;
mod explored;
mod faults;
mod history;
mod mistakes;
mod model;
mod node;
mod properties;
mod run;
mod seeds;
mod shared;
mod simulator;
mod store;
mod world;
