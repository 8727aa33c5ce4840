//! What `deploy/kubernetes` renders: valid, safe, complete; and the services start with exactly what is rendered for them.
//!
//! `kubectl kustomize` renders, the schemas of Kubernetes accept, the rest is held here. There is no cluster: nobody pulls an image, enforces a
//! network policy or evicts a pod. What a pod's container is made of (arguments, environment, files, user, probes, the time it has to end)
//! is given to the real binaries.

mod monitoring;
mod network;
mod observing;
mod pods;
mod policy;
mod rendered;
mod run;

pub use rendered::{Object, Rendered};

/// The overlays that are shipped.
const OVERLAYS: [&str; 2] = ["local", "production"];
