//! Who is asking, and what they may do: JWT by the keys of an issuer (JWKS, which rotate), opaque tokens by introspection (RFC 7662),
//! API keys, sessions in private cookies; and a signed cookie that the client may read but not change.

use axum::extract::{FromRef, FromRequestParts, Path};
use axum::http::{HeaderMap, StatusCode, header, request::Parts};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use axum_extra::extract::cookie::{Cookie, Key, SameSite};
use axum_extra::extract::{PrivateCookieJar, SignedCookieJar};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use ringmill_backend::{address, tell};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use subtle::ConstantTimeEq;
use tokio::sync::Mutex;

const AUDIENCE: &str = "articles";
/// Tokens signed by keys that nobody knows cannot make us ask the issuer more often.
const KEYS_AGE_MIN: Duration = Duration::from_millis(200);
/// Keys that the issuer has withdrawn are trusted no longer.
const KEYS_AGE_MAX: Duration = Duration::from_secs(300);
const SESSION: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Reader,
    Editor,
    Admin,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct User {
    pub name: String,
    pub roles: Vec<Role>,
}

impl User {
    fn must_be_one_of(&self, roles: &[Role]) -> Result<(), StatusCode> {
        let is_one = self.roles.iter().any(|role| roles.contains(role));
        if is_one { Ok(()) } else { Err(StatusCode::FORBIDDEN) }
    }
}

/// What all workers are told. Of API keys there are only hashes: the keys are random, so a fast hash does.
#[derive(Clone)]
pub struct Settings {
    pub issuer: String,
    pub cookie_key: Key,
    pub api_keys: Vec<([u8; 32], User)>,
}

/// A worker's own, as its connections to the issuer are driven by the worker's runtime.
#[derive(Clone)]
struct Auth(Arc<Worker>);

struct Worker {
    settings: Settings,
    client: reqwest::Client,
    keys: Mutex<Option<(JwkSet, Instant)>>,
}

impl FromRef<Auth> for Key {
    fn from_ref(auth: &Auth) -> Key {
        auth.0.settings.cookie_key.clone()
    }
}

pub fn app(settings: Settings) -> Result<Router, reqwest::Error> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).no_proxy().build()?;
    let auth = Auth(Arc::new(Worker { settings, client, keys: Mutex::new(None) }));
    Ok(Router::new()
        .route("/me", get(async |user: User| Json(user)))
        .route("/articles/{id}", get(read).put(write).delete(remove))
        .route("/session", post(log_in).delete(log_out))
        .route("/language", get(language))
        .route("/language/{language}", put(choose_language))
        .with_state(auth))
}

async fn read(user: User, Path(id): Path<u32>) -> Result<String, StatusCode> {
    user.must_be_one_of(&[Role::Reader, Role::Editor, Role::Admin])?;
    Ok(format!("article {id} for {}", user.name))
}

async fn write(user: User, Path(_): Path<u32>) -> Result<StatusCode, StatusCode> {
    user.must_be_one_of(&[Role::Editor, Role::Admin])?;
    Ok(StatusCode::NO_CONTENT)
}

async fn remove(user: User, Path(_): Path<u32>) -> Result<StatusCode, StatusCode> {
    user.must_be_one_of(&[Role::Admin])?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Serialize, Deserialize)]
struct Session {
    user: User,
    until: u64,
}

fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn cookie(name: &'static str, value: String) -> Cookie<'static> {
    let cookie = Cookie::build((name, value)).path("/").http_only(true).same_site(SameSite::Strict);
    // Behind TLS it is also `secure(true)`.
    cookie.max_age(SESSION.try_into().unwrap_or_default()).build()
}

async fn log_in(user: User, jar: PrivateCookieJar) -> Result<PrivateCookieJar, StatusCode> {
    let session = Session { user, until: unix_time() + SESSION.as_secs() };
    let value = serde_json::to_string(&session).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(jar.add(cookie("session", value)))
}

async fn log_out(jar: PrivateCookieJar) -> PrivateCookieJar {
    jar.remove(Cookie::build("session").path("/"))
}

async fn choose_language(jar: SignedCookieJar, Path(language): Path<String>) -> SignedCookieJar {
    jar.add(cookie("language", language))
}

async fn language(jar: SignedCookieJar) -> String {
    jar.get("language").map_or("en".to_owned(), |cookie| cookie.value().to_owned())
}

/// Handlers that take a `User` are for those who are known.
impl FromRequestParts<Auth> for User {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, auth: &Auth) -> Result<User, Response> {
        let field = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let user = if let Some(key) = field("x-api-key") {
            auth.by_api_key(key)
        } else if let Some(token) = field("authorization").and_then(|value| value.strip_prefix("Bearer ")) {
            match decode_header(token) {
                Ok(header) => auth.by_jwt(token, &header.kid.unwrap_or_default()).await,
                Err(_) => auth.by_introspection(token).await,
            }
        } else {
            auth.by_session(&parts.headers)
        };
        user.ok_or((StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")]).into_response())
    }
}

impl Auth {
    fn by_api_key(&self, key: &str) -> Option<User> {
        let hash: [u8; 32] = Sha256::digest(key).into();
        // All are compared, each in the same time.
        let mut found = None;
        for (known, user) in &self.0.settings.api_keys {
            if bool::from(known.ct_eq(&hash)) {
                found = Some(user);
            }
        }
        found.cloned()
    }

    fn by_session(&self, headers: &HeaderMap) -> Option<User> {
        let jar = PrivateCookieJar::from_headers(headers, Key::from_ref(self));
        let session: Session = serde_json::from_str(jar.get("session")?.value()).ok()?;
        (unix_time() < session.until).then_some(session.user)
    }

    async fn by_jwt(&self, token: &str, key_id: &str) -> Option<User> {
        #[derive(Deserialize)]
        struct Claims {
            sub: String,
            roles: Vec<Role>,
        }
        let key = self.key(key_id).await?;
        // Not the algorithm that the token names.
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[&self.0.settings.issuer]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        let claims = decode::<Claims>(token, &key, &validation).ok()?.claims;
        Some(User { name: claims.sub, roles: claims.roles })
    }

    /// The issuer's key, which it is asked for if it is new.
    async fn key(&self, id: &str) -> Option<DecodingKey> {
        let mut keys = self.0.keys.lock().await;
        let known = keys.as_ref().map(|(set, fetched)| (set.find(id).is_some(), fetched.elapsed()));
        let is_fresh =
            known.is_some_and(|(found, age)| age < if found { KEYS_AGE_MAX } else { KEYS_AGE_MIN });
        if !is_fresh {
            let url = format!("{}/jwks.json", self.0.settings.issuer);
            let reply = self.0.client.get(url).send().await.ok()?.error_for_status().ok()?;
            *keys = Some((reply.json().await.ok()?, Instant::now()));
        }
        let (set, _) = keys.as_ref()?;
        DecodingKey::from_jwk(set.find(id)?).ok()
    }

    async fn by_introspection(&self, token: &str) -> Option<User> {
        #[derive(Deserialize)]
        struct Introspected {
            active: bool,
            #[serde(default)]
            username: String,
            #[serde(default)]
            scope: String,
        }
        let url = format!("{}/introspect", self.0.settings.issuer);
        let request = self.0.client.post(url).basic_auth(AUDIENCE, Some("secret"));
        let request = request.form(&[("token", token), ("token_type_hint", "access_token")]);
        let found: Introspected = request.send().await.ok()?.error_for_status().ok()?.json().await.ok()?;
        let role = |word: &str| serde_json::from_value(word.into()).ok();
        let roles = found.scope.split(' ').filter_map(role).collect();
        found.active.then_some(User { name: found.username, roles })
    }
}

fn main() -> Result<(), ringmill::Error> {
    // A program of yours reads these from its configuration: cookies then outlive it.
    let user = User { name: "robot".to_owned(), roles: vec![Role::Reader] };
    let settings = Settings {
        issuer: "http://127.0.0.1:4000".to_owned(),
        cookie_key: Key::generate(),
        api_keys: vec![(Sha256::digest("the-key-of-the-robot").into(), user)],
    };
    ringmill::serve_with(address(), async move |_| app(settings.clone())).on_start(tell).run()
}
