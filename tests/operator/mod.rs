//! The files that an operator installs: each is run as shipped, in places of the test's own.

mod completion;
mod debian_package;
mod dev_certificate;
mod examples;
mod init_script;
mod install;
mod logrotate;
mod place;
mod recorded_profile;
mod scratch_root;
mod systemd;
