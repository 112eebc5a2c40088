//! How many connections a second a path carries, and how long a question and its answer take on one that stands: what
//! bench/ports asks, because iperf3(1) tells of bytes only.
//!
//!     connections serve PORT
//!     connections ask ADDRESS:PORT SECONDS     prints "CONNECTIONS_PER_SECOND MICROSECONDS", the second a median

use std::env;
use std::error::Error;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", port] => serve(port.parse()?),
        ["ask", address, seconds] => ask(address.parse()?, Duration::from_secs(seconds.parse()?)),
        _ => Err("usage: connections serve PORT | ask ADDRESS:PORT SECONDS".into()),
    }
}

/// Answers each byte with one, on every connection until it ends.
fn serve(port: u16) -> Outcome<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
    loop {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        thread::spawn(move || answer(stream));
    }
}

fn answer(mut stream: TcpStream) {
    let mut byte = [0];
    // A client that resets its connection has had its answer.
    while matches!(stream.read(&mut byte), Ok(1)) && stream.write_all(&byte).is_ok() {}
}

/// For so long connections one after the other, and as long questions on one.
fn ask(to: SocketAddr, duration: Duration) -> Outcome<()> {
    let begin = Instant::now();
    let mut connections: u32 = 0;
    while begin.elapsed() < duration {
        let mut stream = TcpStream::connect(to)?;
        // Reset at its end, a connection leaves no port in use.
        let linger = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&stream, sockopt::Linger, &linger)?;
        question(&mut stream)?;
        connections += 1;
    }
    let rate = f64::from(connections) / begin.elapsed().as_secs_f64();
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    let mut times = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < duration {
        let asked = Instant::now();
        question(&mut stream)?;
        times.push(asked.elapsed());
    }
    times.sort();
    let median = times.get(times.len() / 2).ok_or("no answer")?;
    println!("{rate:.0} {:.1}", median.as_secs_f64() * 1e6);
    Ok(())
}

fn question(stream: &mut TcpStream) -> Outcome<()> {
    let mut byte = [7];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)?;
    Ok(())
}
