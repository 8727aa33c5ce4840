//! A small world: one message for up to three subscriptions, callbacks that crash around their probes, orders and calls, operators, and a
//! broker that loses messages, receipts, probes and checks. Every run must end verified, parked or discarded, with at most K resends an
//! epoch and none spent by a crash; and a run without losses must end verified without a resend.
//!
//! Time moves in steps; what is lost and when is drawn from a seed, which a failure names.

mod subscription;
mod world;

use countersign_delivery::Delivery;
use countersign_delivery::state::Command;

use subscription::Weather;
use world::{Trouble, World};

/// Losses of every kind at once.
const STORM: Weather = Weather { lose_message: 60, lose_receipt: 30, put_back: 10, put_into_tier: 20 };
/// Callbacks that crash wherever they can.
const CRASHES: Trouble = Trouble {
    crash_around_probe: 40,
    crash_before_call: 40,
    lose_answer: 20,
    double_check: 20,
    lose_check: 0,
    operator: 0,
    until: 30,
};

fn seeds(count: u64) -> impl Iterator<Item = u64> {
    1..=count
}

#[test]
fn in_fair_weather_nothing_is_resent() {
    let world = World::new(1, &[Weather::default(); 3], Trouble::default()).run();
    world.assert_promises("fair");
    assert!(world.all_verified() && world.calls() == 0);
}

#[test]
fn slow_is_not_lost() {
    for seed in seeds(300) {
        // Put back behind the probes again and again, for less than the grace between two witnesses.
        let slow = Weather { put_back: 60, ..Weather::default() };
        let trouble = Trouble { double_check: 30, crash_around_probe: 30, until: 5, ..Trouble::default() };
        let world = World::new(seed, &[slow], trouble).run();
        world.assert_promises(&format!("seed {seed}"));
        assert!(world.all_verified() && world.calls() == 0, "seed {seed}");
    }
}

#[test]
fn what_is_tried_again_and_again_is_not_lost_whoever_crashes() {
    for seed in seeds(500) {
        let failing = Weather { put_into_tier: 80, ..Weather::default() };
        let trouble = Trouble { double_check: 30, crash_around_probe: 50, until: 60, ..Trouble::default() };
        let world = World::new(seed, &[failing; 2], trouble).run();
        world.assert_promises(&format!("seed {seed}"));
        assert!(world.all_verified() && world.calls() == 0, "seed {seed}: sent again what waited in its tier");
    }
}

#[test]
fn whatever_is_lost_for_a_while_is_verified_in_the_end() {
    let mut resent = 0;
    for seed in seeds(1_000) {
        let world = World::new(seed, &[STORM; 3], CRASHES).run();
        world.assert_promises(&format!("seed {seed}"));
        assert!(world.all_verified(), "seed {seed}: the trouble was over in time");
        resent += world.calls();
    }
    assert!(resent > 1_500, "the weather was rough enough to mean something: {resent}");
}

#[test]
fn one_that_loses_everything_costs_the_others_nothing() {
    for seed in seeds(500) {
        let world = World::new(seed, &[Weather::default(), STORM, Weather::default()], CRASHES).run();
        world.assert_promises(&format!("seed {seed}"));
        for at in [0, 2] {
            let spared = &world.subscriptions[at];
            assert!((spared.delivered, spared.calls, spared.ordered.len()) == (1, 0, 0), "seed {seed}: {at} was sent it again");
        }
    }
}

#[test]
fn checks_may_be_lost_too() {
    for seed in seeds(600) {
        let weather = Weather { lose_message: 40, ..STORM };
        let trouble = Trouble { lose_check: 50, until: 60, ..CRASHES };
        World::new(seed, &[weather; 2], trouble).run().assert_promises(&format!("seed {seed}"));
    }
}

#[test]
fn in_endless_bad_weather_it_is_parked_after_its_resends() {
    for seed in seeds(300) {
        let weather = Weather { lose_receipt: 100, ..Weather::default() };
        let trouble = Trouble { until: u32::MAX, crash_around_probe: 20, ..CRASHES };
        let world = World::new(seed, &[weather], trouble).run();
        world.assert_promises(&format!("seed {seed}"));
        let one = &world.subscriptions[0];
        let parked = one.row.as_ref().is_some_and(|row| matches!(row.command, Command::Parked { .. }));
        assert!(parked && one.ordered.len() == 3, "seed {seed}: {:?}", one.row);
        assert_eq!(one.effects.values().sum::<u32>(), 1, "seed {seed}");
    }
}

#[test]
fn operators_who_park_discard_restore_and_redrive_break_no_promise() {
    let (mut discarded, mut twice) = (0, 0);
    for seed in seeds(1_500) {
        let trouble = Trouble { operator: 30, lose_check: 10, until: 80, ..CRASHES };
        let world = World::new(seed, &[STORM; 2], trouble).run();
        world.assert_promises(&format!("seed {seed}"));
        for one in &world.subscriptions {
            let stands = one.row.as_ref().map(|row| &row.command);
            let is_done = one.row.as_ref().is_some_and(Delivery::is_done);
            discarded += u32::from(matches!(stands, Some(Command::Discarded { .. })) && !is_done);
            twice += u32::from(one.effects.len() > 1);
        }
    }
    assert!(discarded > 50 && twice > 50, "operators meant something: {discarded} discarded, {twice} with a second effect");
}
