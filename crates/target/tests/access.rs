//! Who is let in: initiator names and CHAP, over loopback TCP.

mod common;

use std::path::Path;
use std::sync::Arc;

use ballast_target::TargetAccess;
use ballast_target::iscsi::login::{ChapAccount, Credentials};
use ballast_target::server::secrets::read_accounts;
use common::*;

const AUTHENTICATION: Refused = Refused(0x0201);
const FORBIDDEN: Refused = Refused(0x0202);
const USER: (&str, &str) = ("user", "initiator-secret");

fn account(name: &str, secret: &str) -> Arc<ChapAccount> {
    let credentials = Credentials::new(name, secret).expect("a good name and secret");
    Arc::new(ChapAccount::new(credentials, None).expect("an account"))
}

fn guarded() -> TargetAccess {
    TargetAccess { initiators: Vec::new(), chap: Some(account(USER.0, USER.1)) }
}

#[tokio::test]
async fn a_secret_keeps_strangers_out() {
    let (server, address, _) = serve(|_| {}).await;
    let mut before = Initiator::ready(address, "iqn.before", 1, "").await;
    server.set_access(IQN, guarded());
    let mut me = Initiator::login_chap(address, "iqn.i", Some(IQN), USER).await.unwrap();
    assert_eq!(me.command(cdb(&[0]), &[], 0).await.code(), 0x2900);
    assert_eq!(me.command(cdb(&[0]), &[], 0).await.status, 0);
    for wrong in [("user", "another-secret!!"), ("other", USER.1)] {
        let refused = Initiator::login_chap(address, "iqn.i", Some(IQN), wrong).await.err();
        assert_eq!(refused, Some(AUTHENTICATION));
    }
    let without = Initiator::login(address, "iqn.i", 2, Some(IQN), "").await.err();
    assert_eq!(without, Some(AUTHENTICATION));
    // A session that was open stays, also beside failed logins in its initiator's name.
    assert_eq!(before.command(cdb(&[0]), &[], 0).await.status, 0);
    let refused = Initiator::login(address, "iqn.before", 1, Some(IQN), "").await.err();
    assert_eq!(refused, Some(AUTHENTICATION));
    assert_eq!(before.command(cdb(&[0]), &[], 0).await.status, 0, "nobody is thrown out by a guess");
    // A new secret counts from the next login on.
    server.set_access(IQN, TargetAccess { chap: Some(account("user", "the-next-secret")), ..guarded() });
    assert_eq!(Initiator::login_chap(address, "iqn.i", Some(IQN), USER).await.err(), Some(AUTHENTICATION));
    assert!(Initiator::login_chap(address, "iqn.i", Some(IQN), ("user", "the-next-secret")).await.is_ok());
}

#[tokio::test]
async fn discovery_has_a_secret_of_its_own() {
    let (server, address, _) = serve(|c| c.discovery_chap = Some(account("finder", "discovery-secret"))).await;
    assert_eq!(Initiator::login(address, "iqn.i", 1, None, "").await.err(), Some(AUTHENTICATION));
    assert_eq!(Initiator::login_chap(address, "iqn.i", None, USER).await.err(), Some(AUTHENTICATION));
    let mut me = Initiator::login_chap(address, "iqn.i", None, ("finder", "discovery-secret")).await.unwrap();
    assert_eq!(me.targets("All").await.len(), 1);
    server.set_discovery_chap(None);
    assert!(Initiator::login(address, "iqn.i", 1, None, "").await.is_ok());
}

#[tokio::test]
async fn initiators_see_and_use_only_what_they_may() {
    let (server, address, _) = serve(|_| {}).await;
    let only = |name: &str| TargetAccess { initiators: vec![name.to_owned()], chap: None };
    server.add_target("iqn.2026-01.test:other".into(), Arc::new(Held::new()), only("iqn.node-2*")).unwrap();
    server.set_access(IQN, only("iqn.node-1"));
    let mut me = Initiator::login(address, "iqn.node-1", 1, None, "").await.unwrap();
    assert_eq!(me.targets("All").await, [(IQN.to_owned(), format!("{address},1"))]);
    assert_eq!(me.targets("iqn.2026-01.test:other").await, []);
    assert!(Initiator::login(address, "iqn.node-1", 1, Some(IQN), "").await.is_ok());
    assert_eq!(Initiator::login(address, "iqn.node-2", 1, Some(IQN), "").await.err(), Some(FORBIDDEN));
    assert!(Initiator::login(address, "iqn.node-22", 1, Some("iqn.2026-01.test:other"), "").await.is_ok());
}

#[test]
fn no_directory_is_no_account() {
    let error = read_accounts(Path::new("/nonexistent/secret")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/secret/node.session.auth.username"), "{error}");
}
