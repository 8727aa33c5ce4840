//! This repository keeps its own rules.

use countersign_tidy::{
    Complaint, Tree, arrows, delivery_is_pure, lock_sources, modules, names, one_crate_per_driver, readme_paths, sizes, steps,
    strangers, top_level,
};

fn none(complaints: &[Complaint]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn the_top_level_is_the_one_agreed_on() {
    none(&top_level(&Tree::read()));
}

#[test]
fn each_step_is_told_in_one_file() {
    none(&steps(&Tree::read()));
}

#[test]
fn imports_run_downwards() {
    none(&arrows(&Tree::read()));
}

#[test]
fn a_driver_is_known_to_one_crate() {
    none(&one_crate_per_driver(&Tree::read()));
}

#[test]
fn the_protocol_is_pure() {
    none(&delivery_is_pure(&Tree::read()));
}

#[test]
fn modules_are_named_and_imported_plainly() {
    none(&modules(&Tree::read()));
}

#[test]
fn names_say_something() {
    none(&names(&Tree::read()));
}

#[test]
fn nothing_has_grown_too_big() {
    none(&sizes(&Tree::read()));
}

#[test]
fn what_the_readme_names_exists() {
    none(&readme_paths(&Tree::read()));
}

#[test]
fn nothing_belongs_to_one_machine() {
    none(&strangers(&Tree::read()));
}

#[test]
fn packages_come_from_the_usual_index() {
    none(&lock_sources(&Tree::read()));
}
