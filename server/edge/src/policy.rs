//! May they: every message that asks for something is an action on a resource, and what no rule allows is denied.
//!
//! Here: what is asked and how a rule is matched. The rules themselves: `rules`. Not here: who somebody is. Invariants:
//! [`Policy::allowed`] is pure; without rules nothing is allowed; whoever asks for what is not known to a rule is denied.

mod rules;

use spile_protocol::id::Role;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Principal<'a> {
    /// As what.
    pub role: Role,
    /// Who.
    pub name: &'a str,
}

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Put events of a topic under a key.
    Publish,
    /// Hear events by filter, of one key or of all.
    Subscribe,
    /// Read one key's events in order.
    Stream,
    /// Take deliveries of a group.
    Consume,
    /// Read the latest value of a topic under a key, or a stream's last version.
    StateGet,
    /// List what there is.
    List,
    /// Read a blob.
    Download,
    /// Send a file under a key.
    Upload,
    /// Ask a service.
    Call,
    /// Answer for a service.
    Serve,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 10] = [
        Self::Publish,
        Self::Subscribe,
        Self::Stream,
        Self::Consume,
        Self::StateGet,
        Self::List,
        Self::Download,
        Self::Upload,
        Self::Call,
        Self::Serve,
    ];

    /// The word for it, as a person types it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Stream => "stream",
            Self::Consume => "consume",
            Self::StateGet => "state-get",
            Self::List => "list",
            Self::Download => "download",
            Self::Upload => "upload",
            Self::Call => "call",
            Self::Serve => "serve",
        }
    }

    /// The action of that name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }
}

/// What it is done to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resource<'a> {
    /// Under which key; `None` for all keys, or where there is none.
    pub key: Option<&'a str>,
    /// Topic, filter, group, service, or what names begin with; empty where there is none.
    pub name: &'a str,
}

/// What was decided, and by which rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// May they?
    pub allowed: bool,
    /// The rule that said so.
    pub rule: &'static str,
}

/// What denies when nothing allows.
const DEFAULT: Decision = Decision { allowed: false, rule: "default: denied" };

/// Rules, in the order they are asked.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Vec<rules::Rule>,
}

impl Policy {
    /// The rules a server has without a policy file. A file's rules come into a policy here, and nowhere else.
    #[must_use]
    pub fn built_in() -> Self {
        Self { rules: rules::BUILT_IN.to_vec() }
    }

    /// May `who` do that to it?
    #[must_use]
    pub fn allowed(&self, who: Principal<'_>, action: Action, resource: Resource<'_>) -> Decision {
        let rule = self.rules.iter().find(|rule| rule.allows(who, action, resource));
        rule.map_or(DEFAULT, |rule| Decision { allowed: true, rule: rule.name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(role: Role, action: Action, key: Option<&str>, name: &str) -> bool {
        let who = Principal { role, name: "me" };
        Policy::built_in().allowed(who, action, Resource { key, name }).allowed
    }

    const ME: Option<&str> = Some("me");
    const OTHER: Option<&str> = Some("other");

    /// What each role may, in the order device, user, service, operator.
    #[test]
    fn the_built_in_rules() {
        use Action::{
            Call, Consume, Download, List, Publish, Serve, StateGet, Stream, Subscribe, Upload,
        };
        let roles = [Role::Device, Role::User, Role::Service, Role::Operator];
        for (action, key, name, want) in [
            (Publish, ME, "telemetry/temp", "yyyy"),
            (Publish, OTHER, "telemetry/temp", "nyyy"),
            (Publish, ME, "$audit/x", "nnnn"),
            (Publish, Some("$registry"), "x", "nnnn"),
            (Publish, None, "telemetry", "nnnn"),
            (Subscribe, ME, "inbox/#", "yyyy"),
            (Subscribe, ME, "#", "yyyy"),
            (Subscribe, OTHER, "#", "nyyy"),
            (Subscribe, None, "#", "nyyy"),
            (Subscribe, None, "$audit/#", "nnny"),
            (Subscribe, ME, "$audit/#", "nnny"),
            (Subscribe, Some("$registry"), "#", "nnny"),
            (Stream, ME, "", "yyyy"),
            (Stream, OTHER, "", "nyyy"),
            (Stream, Some("$registry"), "", "nnny"),
            (Consume, None, "thumbs", "nyyy"),
            (StateGet, ME, "state/x", "yyyy"),
            (StateGet, OTHER, "state/x", "nyyy"),
            (List, None, "", "nyyy"),
            (List, None, "$", "nnny"),
            (Download, None, "b1", "nyyy"),
            (Upload, ME, "log.bin", "yyyy"),
            (Upload, OTHER, "log.bin", "nyyy"),
            (Call, None, "resize", "yyyy"),
            (Call, None, "$device", "nnny"),
            (Call, None, "", "nnnn"),
            (Serve, None, "resize", "nyyy"),
            (Serve, None, "device/me", "yyyy"),
            (Serve, None, "device/other", "nyyy"),
            (Serve, None, "$device", "nnnn"),
        ] {
            let got: String = roles
                .map(|role| if check(role, action, key, name) { 'y' } else { 'n' })
                .iter()
                .collect();
            assert_eq!(got, want, "{} {key:?} {name:?}", action.name());
        }
    }

    #[test]
    fn an_edge_is_no_principal_and_without_rules_nothing_is_allowed() {
        let resource = Resource { key: ME, name: "a" };
        for action in Action::ALL {
            assert!(!check(Role::Edge, action, resource.key, resource.name));
            let operator = Principal { role: Role::Operator, name: "me" };
            let decision = Policy { rules: Vec::new() }.allowed(operator, action, resource);
            assert_eq!(decision, DEFAULT);
            assert_eq!(Action::find(action.name()), Some(action));
        }
    }

    #[test]
    fn the_rule_that_decided_is_named() {
        let device = Principal { role: Role::Device, name: "me" };
        let own = Resource { key: ME, name: "a" };
        let decision = Policy::built_in().allowed(device, Action::Publish, own);
        assert_eq!(decision, Decision { allowed: true, rule: "device: own key" });
    }
}
