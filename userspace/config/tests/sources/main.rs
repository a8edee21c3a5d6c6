//! Reading configurations: the meaning of the forms, and the messages for wrong ones.

mod aws;
mod bad_aws;
mod bad_files;
mod bad_native;
mod bad_ranges;
mod bad_rules;
mod bad_tasks;
mod beside;
mod folder;
mod forms;
mod groups;
mod native;
mod round_trip;
mod support;
mod vpcs;
