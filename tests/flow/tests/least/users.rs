//! The servers with the shipped users, and the services' configuration with nothing else.

use anyhow::{Context as _, ensure};
use countersign_flow::{Flow, PATIENCE};
use countersign_launcher::{Extras, Permissions, Postgres, Program, Redis, Which, binary};
use sha2::{Digest as _, Sha256};

use crate::command::{SETUP, command, expect};

/// Of everybody.
pub const PASSWORD: &str = "hush";
/// A subscription whose consumer is not ours.
pub const AUDIT: &str = "audit";
/// Each service with its database.
pub const DATABASES: [(Which, &str); 3] = [(Which::Upstream, "shop"), (Which::Callback, "msg"), (Which::Downstream, "stock")];
/// Below `deploy/`, from here.
const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy");

/// A system whose services may do what they need.
pub struct Users {
    pub flow: Flow,
    pub redis: Redis,
    pub postgres: Postgres,
}

impl Users {
    /// The servers have the users; none of the services is started, nothing is declared, and there are no tables.
    pub async fn shipped(test: &str) -> anyhow::Result<Self> {
        let extras = Extras {
            topology: format!(
                "[[subscription]]\nname = \"{AUDIT}\"\nprobes = false\nretry_delays_ms = []\nbind = [{{ exchange = \"orders\", routing_key = \"audit.#\" }}]\n"
            ),
            subscription: "guard = \"redis+archive\"".into(),
            ..Extras::default()
        };
        let flow = Flow::with_extras(test, SETUP, extras).await?;
        let acl = std::fs::read_to_string(format!("{DEPLOY}/redis/users.acl"))?;
        let hash = Sha256::digest(PASSWORD).iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        let acl_file = flow.ground.path("users.acl");
        std::fs::write(&acl_file, acl.replace("DOWNSTREAM_PASSWORD_SHA256", &hash))?;
        let redis = Redis::start_with_users(flow.ground.dir(), &acl_file).await?;
        let postgres = Postgres::start(flow.ground.dir()).await?;
        let users = Self { flow, redis, postgres };
        for (which, database) in DATABASES {
            let url = users.postgres.create_database(database).await?;
            users.run_roles(which, &url).await?;
        }
        users.permit().await?;
        users.configure()?;
        Ok(users)
    }

    /// Runs the shipped file as whoever owns the server.
    async fn run_roles(&self, which: Which, url: &str) -> anyhow::Result<()> {
        let (service, file) = (format!("service={}", which.name()), format!("{DEPLOY}/postgres/roles.sql"));
        let (succeeded, said) = Postgres::psql(url, &["-v", &service, "-f", &file]).await?;
        ensure!(succeeded, "roles.sql for {}: {said}", which.name());
        Ok(())
    }

    /// A broker's user of this test; users belong to the whole broker.
    pub fn name_of(&self, user: &str) -> String {
        format!("{}-{user}", self.flow.ground.name())
    }

    /// The broker's address as one of its users.
    pub fn amqp_as(&self, user: &str) -> String {
        self.flow.ground.amqp_url().replace("guest:guest", &format!("{}:{PASSWORD}", self.name_of(user)))
    }

    /// The management interface as one of its users.
    pub fn management_as(&self, user: &str) -> String {
        let admin = self.flow.ground.broker().admin_url();
        admin.replace("guest:guest", &format!("{}:{PASSWORD}", self.name_of(user)))
    }

    /// Makes the broker's users, and grants what the command prints.
    async fn permit(&self) -> anyhow::Result<()> {
        let (flow, broker) = (&self.flow, self.flow.ground.broker());
        let (file, prefix) = (flow.system.topology_file().display().to_string(), self.name_of(""));
        let vhost = flow.ground.vhost();
        let arguments = ["topology", "permissions", "--file", &file, "--vhost", vhost, "--user-prefix", &prefix];
        let definitions = expect(flow, 0, &arguments).await?;
        let permissions = definitions["permissions"].as_array().context("no permissions")?;
        let users: Vec<&str> = permissions.iter().filter_map(|permission| permission["user"].as_str()).collect();
        let expected = ["upstream", "downstream", "callback", AUDIT, "topology", "doctor"].map(|user| self.name_of(user));
        ensure!(users == expected, "{users:?}");
        for user in users {
            let tags = if user.ends_with("-doctor") { "monitoring" } else { "" };
            let nothing = Permissions { configure: "^$", write: "^$", read: "^$", tags };
            broker.create_user(user, PASSWORD, vhost, nothing).await?;
        }
        broker.import_definitions(&definitions).await
    }

    /// Gives each service its own users, and takes from it what only an owner may.
    fn configure(&self) -> anyhow::Result<()> {
        for (which, database) in DATABASES {
            let file = self.flow.ground.path(&format!("{}.toml", which.name()));
            let mut text: toml::Table = toml::from_str(&std::fs::read_to_string(&file)?)?;
            let mut set = |section: &str, key: &str, value: toml::Value| {
                let section = text.entry(section).or_insert_with(|| toml::Table::new().into());
                section.as_table_mut().map(|section| section.insert(key.into(), value));
            };
            set("broker", "url", self.amqp_as(which.name()).into());
            set("topology", "apply", false.into());
            set("database", "url", self.postgres.url_as(which.name(), database).into());
            set("database", "migrate", false.into());
            if which == Which::Downstream {
                let url = self.redis.url().replace("redis://", &format!("redis://downstream:{PASSWORD}@"));
                set("redis", "url", url.into());
            }
            std::fs::write(&file, text.to_string())?;
        }
        Ok(())
    }

    /// Declares as the one user who may.
    pub async fn declare(&self) -> anyhow::Result<()> {
        let file = self.flow.system.topology_file().display().to_string();
        for verb in ["apply", "verify"] {
            let mut command = command(&self.flow, &["topology", verb, "--file", &file])?;
            let output = command.env("COUNTERSIGN_AMQP_URL", self.amqp_as("topology")).output().await?;
            ensure!(output.status.success(), "{verb}: {}{}", text(&output.stdout), text(&output.stderr));
        }
        Ok(())
    }

    /// Makes the tables as their owners, which nobody else may, and takes the record of it from the services.
    pub async fn migrate(&self) -> anyhow::Result<()> {
        for (which, database) in DATABASES {
            let name = which.name();
            let refused = self.migrate_as(which, &self.postgres.url_as(name, database)).await?;
            ensure!(refused.0 == Some(1) && refused.1.contains("permission denied for schema public"), "{name}: {refused:?}");
            let owner = self.postgres.url_as(&format!("{name}_owner"), database);
            for _ in 0..2 {
                let (code, said) = self.migrate_as(which, &owner).await?;
                ensure!(code == Some(0) && said.contains("the tables are up to date"), "{name}: {code:?} {said}");
            }
            // What is up to date needs nobody who may create anything.
            let (code, said) = self.migrate_as(which, &self.postgres.url_as(name, database)).await?;
            ensure!(code == Some(0), "{name}: {said}");
            self.run_roles(which, &self.postgres.url().replace("/postgres", &format!("/{database}"))).await?;
        }
        Ok(())
    }

    async fn migrate_as(&self, which: Which, url: &str) -> anyhow::Result<(Option<i32>, String)> {
        let log = self.flow.ground.path("migrate.log");
        if log.exists() {
            std::fs::remove_file(&log)?;
        }
        let running = Program::new(binary(which.binary())?)
            .arg("--config")
            .arg(self.flow.ground.path(&format!("{}.toml", which.name())))
            .arg("--migrate")
            .env("COUNTERSIGN_DATABASE__URL", url)
            .log_to(&log)
            .spawn()?;
        let status = running.wait(PATIENCE).await?;
        Ok((status.code(), running.log_text()))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
