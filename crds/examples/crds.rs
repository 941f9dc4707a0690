//! Prints the CRDs that the types make: `cargo run -q -p lockstep-crds --example crds > config/crd/crds.yaml`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("# Generated: cargo run -q -p lockstep-crds --example crds > config/crd/crds.yaml");
    for crd in lockstep_crds::all_crds() {
        let mut value = serde_json::to_value(crd)?;
        // The status is the API server's to write.
        if let Some(fields) = value.as_object_mut() {
            fields.remove("status");
        }
        print!("---\n{}", serde_saphyr::to_string(&value)?);
    }
    Ok(())
}
