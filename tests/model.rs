//! A server and a model in memory get the same random requests, and every answer is compared.
//!
//! The requests are the same on every run. `PROPTEST_CASES` sets how many sequences there are, `AMBERBLOB_MODEL_SEED` which.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/answers.rs"]
mod answers;
#[path = "support/asked.rs"]
mod asked;
#[path = "support/blobs.rs"]
mod blobs;
#[path = "support/driver.rs"]
mod driver;
#[path = "support/requests.rs"]
mod requests;
mod support;

use std::cell::Cell;
use std::time::{Duration, Instant};

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use driver::Driver;
use requests::sequence;

/// Sequences of requests, unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 150;

#[test]
fn every_answer_is_the_one_that_the_model_gives() {
    let seed: u64 = std::env::var("AMBERBLOB_MODEL_SEED").map_or(1, |text| text.parse().expect("a number"));
    let mut config = Config { failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
    config.max_shrink_time = u32::try_from(Duration::from_secs(90).as_millis()).unwrap();
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    println!("{} sequences, AMBERBLOB_MODEL_SEED={seed}", config.cases);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let started = Instant::now();
    let answers = Cell::new(0_usize);
    let outcome = runner.run(&sequence(), |requests| {
        let mut driver = Driver::start();
        let done = requests.iter().enumerate().try_for_each(|(number, request)| {
            driver.perform(request).map_err(|wrong| format!("request {number}, {request:?}: {wrong}"))
        });
        let done = done.and_then(|()| driver.look_at_everything());
        answers.set(answers.get() + driver.answers());
        done.map_err(TestCaseError::fail)
    });
    println!("{} answers compared in {:?}", answers.get(), started.elapsed());
    if let Err(error) = outcome {
        panic!("AMBERBLOB_MODEL_SEED={seed}: {error}");
    }
}
