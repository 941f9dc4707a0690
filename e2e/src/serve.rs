//! Servers of our own: on loopback, on free ports, for as long as the process lives.

use axum::Router;

/// Serves on a thread of its own: a test's runtime ends with the test. Answers the URL.
///
/// # Errors
/// Why there is no port.
pub fn apart(app: Router) -> Result<String, String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    listener.set_nonblocking(true).map_err(|e| e.to_string())?;
    let url = format!("http://{}", listener.local_addr().map_err(|e| e.to_string())?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            let _ended = axum::serve(listener, app).await;
        });
    });
    Ok(url)
}
