//! A node inside a program of yours: `cargo run --example embed`.

use broadcast::{Config, Profile, Seed, start};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Two nodes on ports that the system chooses; the second joins through the first.
    let config = |name| Config::new(name).bind(([127, 0, 0, 1], 0).into()).profile(Profile::Local);
    let alice = start(config("alice")).await?;
    let bob = start(config("bob").join([alice.addr().to_string().parse::<Seed>()?])).await?;

    // What is published reaches the members of that moment: wait until bob has joined.
    bob.joined().await?;
    for member in alice.members().await {
        println!("{} is {:?} at {}", member.name, member.state, member.addr);
    }

    // Keys are text; values are whatever serde can write as JSON.
    let mut heard = alice.subscribe();
    let receipt = bob.publish("greeting", &["hello", "world"]).await?;
    let message = heard.recv().await.ok_or("alice has stopped")??;
    let words: Vec<&str> = message.value_as()?;
    println!("alice hears {} = {words:?} from {}", message.key(), message.origin());

    // The receipt knows when every live member has it.
    let done = receipt.delivered().await?;
    println!("delivered to {} of {} in {:?}", done.delivered, done.members, done.elapsed);

    // Say good-bye, so that nobody takes it for a failure.
    bob.leave().await;
    alice.leave().await;
    Ok(())
}
