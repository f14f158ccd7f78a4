//! TLS to clients.

mod acme;
mod acme_hostile;
mod dynamic;
mod early_data;
mod hostile;
mod https_redirect;
mod ocsp;
mod refusals;
mod reload;
mod rotation;
mod servers;
mod transfer;
mod trust;
mod variables;
