//! What a real collector gets to see of a message that is delivered, delivered twice, lost, refused; and that it holds up nobody.

mod stories;
mod unmoved;
