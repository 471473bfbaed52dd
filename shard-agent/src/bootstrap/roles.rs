//! The server's roles and their passwords.

use tenantry_schema::guard::{GuardScript, role};
use tenantry_schema::secrets::{Password, RolePasswords};
use tenantry_wire::scram::Verifier;
use tokio_postgres::{Client, Transaction};

use super::error::{BootstrapError, during};

pub(super) async fn install_roles(
    client: &mut Client,
    script: &GuardScript,
    passwords: &RolePasswords,
    done: &mut Vec<String>,
) -> Result<(), BootstrapError> {
    let step = during("creating the server's roles");
    let transaction = client.transaction().await.map_err(&step)?;
    // A lock on a shared catalog counts in every database of the server.
    transaction
        .batch_execute("LOCK TABLE pg_catalog.pg_authid IN SHARE ROW EXCLUSIVE MODE")
        .await
        .map_err(&step)?;
    let before = role_state(&transaction).await.map_err(&step)?;
    transaction
        .batch_execute(&script.roles)
        .await
        .map_err(&step)?;
    if role_state(&transaction).await.map_err(&step)? != before {
        done.push("server roles".to_owned());
    }
    for (name, password) in [
        (role::APP, &passwords.app),
        (role::AGENT, &passwords.agent),
        (role::OPERATOR, &passwords.operator),
    ] {
        if set_password(&transaction, name, password)
            .await
            .map_err(&step)?
        {
            done.push(format!("password of {name}"));
        }
    }
    transaction.commit().await.map_err(&step)
}

/// Attributes, settings and memberships of the fleet's roles, to tell whether anything changed.
async fn role_state(transaction: &Transaction<'_>) -> Result<Vec<String>, tokio_postgres::Error> {
    let rows = transaction
        .query(
            "SELECT concat_ws(' ', rolname, rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolreplication,
                              rolbypassrls, rolinherit, rolconfig,
                              (SELECT string_agg(m.roleid::regrole::text, ',' ORDER BY m.roleid)
                               FROM pg_auth_members m WHERE m.member = r.oid))
             FROM pg_roles r WHERE rolname LIKE 'tenantry\\_%' ORDER BY rolname",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Stores a verifier, not the password: statements are logged.
async fn set_password(
    transaction: &Transaction<'_>,
    name: &str,
    password: &Password,
) -> Result<bool, tokio_postgres::Error> {
    let stored: Option<String> = transaction
        .query_one(
            "SELECT rolpassword FROM pg_authid WHERE rolname = $1",
            &[&name],
        )
        .await?
        .get(0);
    let is_set = stored
        .and_then(|text| Verifier::parse(&text).ok())
        .is_some_and(|verifier| verifier.is_of(password.expose()));
    if !is_set {
        // The verifier's alphabet has neither quotes nor backslashes.
        let verifier = Verifier::from_password(password.expose());
        transaction
            .batch_execute(&format!("ALTER ROLE {name} PASSWORD '{verifier}'"))
            .await?;
    }
    Ok(!is_set)
}
