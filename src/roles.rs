//! What the `broadcast` program does with messages: log them, and send some.
