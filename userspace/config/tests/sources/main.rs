//! Reading configurations: what the forms mean, and what a user is told who got one wrong.

mod aws;
mod bad_aws;
mod bad_files;
mod bad_native;
mod bad_ranges;
mod bad_rules;
mod bad_tasks;
mod folder;
mod forms;
mod groups;
mod native;
mod round_trip;
mod support;
mod vpcs;
