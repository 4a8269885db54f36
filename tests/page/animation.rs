//! A moving picture from screenshots: an [animated PNG](https://www.w3.org/TR/png-3/#apng-frame-based-animation), kept
//! small by one palette for all frames, and by leaving out of each frame what has not changed.

use std::{collections::HashMap, time::Duration};

use png::{BitDepth, BlendOp, ColorType, Decoder, DeflateCompression, Encoder, Filter};

/// Where a frame shows the one before. The colours are below it: more of them make larger files, and no better picture.
const UNCHANGED: u8 = 63;
/// How long the last frame is seen before all begins again.
const END: Duration = Duration::from_millis(1500);

type Colour = [u8; 3];

/// What has changed since the frame before.
struct Frame {
    left: usize,
    top: usize,
    width: usize,
    pixels: Vec<u8>,
    at: Duration,
}

/// Puts screenshots of one size together, each a PNG with the time at which it was taken.
pub fn animate(shots: &[(Duration, Vec<u8>)]) -> Vec<u8> {
    let decoded: Vec<_> = shots.iter().map(|(at, png)| (*at, decode(png))).collect();
    let palette = palette(decoded.iter().flat_map(|(_, (_, colours))| colours));
    let mut nearest = HashMap::new();
    let mut shown = Vec::new();
    let mut frames: Vec<Frame> = Vec::new();
    for (at, (width, colours)) in &decoded {
        let index = |colour: &Colour| *nearest.entry(*colour).or_insert_with(|| nearest_to(colour, &palette));
        let pixels: Vec<_> = colours.iter().map(index).collect();
        frames.extend(changes(&shown, &pixels, *width).map(|frame| Frame { at: *at, ..frame }));
        shown = pixels;
    }
    encode(&frames, &palette)
}

fn decode(png: &[u8]) -> (usize, Vec<Colour>) {
    let mut reader = Decoder::new(std::io::Cursor::new(png)).read_info().expect("a screenshot is a PNG");
    let mut bytes = vec![0; reader.output_buffer_size().expect("it fits into memory")];
    let info = reader.next_frame(&mut bytes).expect("it is whole");
    assert_eq!((info.color_type, info.bit_depth), (ColorType::Rgb, BitDepth::Eight), "what chromium takes");
    (info.width as usize, bytes.as_chunks().0.to_vec())
}

/// Colours that are frequent, or unlike the others; those that are close together count as one.
fn palette<'a>(colours: impl Iterator<Item = &'a Colour>) -> Vec<Colour> {
    let mut close: HashMap<Colour, (u64, [u64; 3])> = HashMap::new();
    for colour in colours {
        let (count, sum) = close.entry(colour.map(|part| part >> 3)).or_default();
        *count += 1;
        sum.iter_mut().zip(colour).for_each(|(sum, part)| *sum += u64::from(*part));
    }
    let mut close: Vec<_> = close.values().map(|(count, sum)| (*count, sum.map(|sum| (sum / count) as u8))).collect();
    close.sort_unstable();
    let mut palette = Vec::new();
    while palette.len() < UNCHANGED.into() {
        let gain = |(count, colour): &(u64, Colour)| {
            count.isqrt() * palette.iter().map(|other| u64::from(distance(colour, other))).min().unwrap_or(1)
        };
        let Some((_, best)) = close.iter().max_by_key(|colour| gain(colour)) else { break };
        palette.push(*best);
    }
    palette
}

/// How unlike two colours are.
fn distance(a: &Colour, b: &Colour) -> u32 {
    a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b)).pow(2)).sum()
}

fn nearest_to(colour: &Colour, palette: &[Colour]) -> u8 {
    (0..UNCHANGED).zip(palette).min_by_key(|(_, other)| distance(colour, other)).expect("there is a colour").0
}

/// The rectangle in which `after` differs from `before`; all of it if there is nothing before.
fn changes(before: &[u8], after: &[u8], width: usize) -> Option<Frame> {
    let differs = |at: usize| before.get(at) != Some(&after[at]);
    let (mut left, mut right, mut top, mut bottom) = (width, 0, usize::MAX, 0);
    for at in (0..after.len()).filter(|at| differs(*at)) {
        let (x, y) = (at % width, at / width);
        (left, right, top, bottom) = (left.min(x), right.max(x + 1), top.min(y), y + 1);
    }
    let pixel = |at| if differs(at) { after[at] } else { UNCHANGED };
    let row = |y| (left..right).map(move |x| y * width + x);
    let pixels: Vec<_> = (top..bottom).flat_map(row).map(pixel).collect();
    (!pixels.is_empty()).then(|| Frame { left, top, width: right - left, pixels, at: Duration::ZERO })
}

fn encode(frames: &[Frame], palette: &[Colour]) -> Vec<u8> {
    let mut file = Vec::new();
    let height = |frame: &Frame| (frame.pixels.len() / frame.width) as u32;
    let mut encoder = Encoder::new(&mut file, frames[0].width as u32, height(&frames[0]));
    encoder.set_color(ColorType::Indexed);
    let mut colours = palette.concat();
    colours.resize(3 * (usize::from(UNCHANGED) + 1), 0);
    encoder.set_palette(colours);
    let mut opaque = vec![255; UNCHANGED.into()];
    opaque.push(0);
    encoder.set_trns(opaque);
    encoder.set_deflate_compression(DeflateCompression::Level(9));
    encoder.set_filter(Filter::NoFilter);
    encoder.set_animated(frames.len() as u32, 0).expect("there are frames");
    encoder.set_blend_op(BlendOp::Over).expect("it is animated");
    let mut writer = encoder.write_header().expect("memory takes it");
    for (i, frame) in frames.iter().enumerate() {
        let seen = frames.get(i + 1).map_or(END, |next| next.at - frame.at);
        writer.reset_frame_position().expect("it is animated");
        writer.set_frame_dimension(frame.width as u32, height(frame)).expect("it is not larger than the first");
        writer.set_frame_position(frame.left as u32, frame.top as u32).expect("it lies within the first");
        writer.set_frame_delay(seen.as_millis() as u16, 1000).expect("it is animated");
        writer.write_image_data(&frame.pixels).expect("memory takes it");
    }
    writer.finish().expect("memory takes it");
    file
}
