use crate::perturb::perturb_flat;
use crate::rule::Error;
use crate::testing::*;
use hardy_numerics::Format;
use safetensors::SafeTensors;
use std::path::PathBuf;

fn values(tensors: &SafeTensors, name: &str) -> Option<(Vec<f32>, usize)> {
    let tensor = tensors.tensor(name).ok()?;
    let width = *tensor.shape().last()?;
    let values = tensor.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    Some((values, width))
}

#[test]
fn golden_images_are_equal_to_the_bit() {
    let named = std::env::var_os("HARDY_GOLDEN").unwrap_or_else(|| "../shared/golden".into());
    let file =
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(named).join("formats.safetensors");
    let Ok(bytes) = std::fs::read(&file) else {
        println!("skipped: there is no {}", file.display());
        return;
    };
    let tensors = SafeTensors::deserialize(&bytes).expect("formats.safetensors is valid");
    let (client, mut compared) = (client(), 0);
    for case in tensors.names().iter().filter_map(|name| name.strip_prefix("x/")) {
        for &format in Format::ALL {
            let (x, width) = values(&tensors, &format!("x/{case}")).expect("x is there");
            let name = format!("{}/{case}", format.name());
            let Some((expected, _)) = values(&tensors, &name) else { continue };
            let error = Error { what: format.into(), keys: KEY.into() };
            let shape = [x.len() / width, width];
            let found = perturb_flat(&client, upload(&client, &x), shape, &error, None);
            assert_bits(&download(&client, found, x.len()), &expected, &name);
            compared += x.len();
        }
    }
    assert!(compared > 0);
}
