//! Which role each method of a gRPC server needs: its own option `needs`, read from the descriptors that reflection shows.
//!
//! **Invariant:** a method that says nothing, or that nobody knows, needs the highest role.

use std::collections::HashMap;

use prost_reflect::{DescriptorPool, ExtensionDescriptor, MethodDescriptor, Value};

use super::Role;

/// Open to everybody: whoever probes health has no credentials.
const HEALTH: &str = "/grpc.health.v1.Health/";
/// Reflection tells what the public API is.
const REFLECTION: &str = "/grpc.reflection.";
/// The option's full name.
const NEEDS: &str = "countersign.v1.needs";

/// The roles of all methods, by path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Methods(HashMap<String, Role>);

impl Methods {
    /// Reads an encoded `FileDescriptorSet`.
    pub(crate) fn of(descriptors: &[u8]) -> Result<Self, prost_reflect::DescriptorError> {
        let pool = DescriptorPool::decode(descriptors)?;
        let needs = pool.get_extension_by_name(NEEDS);
        let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
        Ok(Self(methods.map(|method| (path(&method), role(&method, needs.as_ref()).unwrap_or(Role::Admin))).collect()))
    }

    /// What a caller of this path needs; none: nothing.
    pub(crate) fn needed(&self, path: &str) -> Option<Role> {
        if path.starts_with(HEALTH) {
            return None;
        }
        let other = if path.starts_with(REFLECTION) { Role::Viewer } else { Role::Admin };
        Some(self.0.get(path).copied().unwrap_or(other))
    }
}

fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

fn role(method: &MethodDescriptor, needs: Option<&ExtensionDescriptor>) -> Option<Role> {
    let options = method.options();
    let Value::EnumNumber(number) = *options.get_extension(needs?) else { return None };
    Role::of_number(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_knows_is_for_admins_and_health_for_everybody() {
        let methods = Methods::of(&[]).unwrap();
        for (path, needed) in [
            ("/grpc.health.v1.Health/Check", None),
            ("/grpc.health.v1.Healthy/Check", Some(Role::Admin)),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Some(Role::Viewer)),
            ("/countersign.v1.UpstreamService/SendMessage", Some(Role::Admin)),
            ("", Some(Role::Admin)),
        ] {
            assert_eq!(methods.needed(path), needed, "{path}");
        }
    }
}
