use super::*;

fn fill(w: &Weights, names: &[&str]) -> Result<()> {
    for name in names {
        w.pp("layer").get((3, 4), name, Init::GlorotUniform)?;
    }
    w.buffer(2, "mean", Init::Zeros)?;
    Ok(())
}

#[test]
fn files_are_equal_whatever_the_order_of_construction() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut bytes = Vec::new();
    for names in [["a", "b"], ["b", "a"]] {
        let w = Weights::new(7, DType::F32, &Device::Cpu);
        fill(&w, &names)?;
        assert_eq!(w.count(), 24);
        w.save(&dir.path().join("w"), &"config")?;
        bytes.push(std::fs::read(dir.path().join("w"))?);
    }
    assert_eq!(bytes[0], bytes[1]);
    Ok(())
}

#[test]
fn a_frozen_store_follows_the_trained_one() -> Result<()> {
    let w = Weights::new(7, DType::F32, &Device::Cpu);
    fill(&w, &["a"])?;
    let frozen = w.frozen();
    let seen = frozen.pp("layer").get((3, 4), "a", Init::Zeros)?;
    w.all()["layer.a"].set(&Tensor::ones((3, 4), DType::F32, &Device::Cpu)?)?;
    assert_eq!(seen.sum_all()?.to_scalar::<f32>()?, 12.0);
    assert!(!seen.is_variable() && frozen.trained().is_empty() && w.trained().len() == 1);
    Ok(())
}

#[test]
fn a_loaded_store_is_frozen_and_complete() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("w");
    let w = Weights::new(7, DType::F32, &Device::Cpu);
    fill(&w, &["a"])?;
    w.save(&path, &3)?;
    let (r, config): (Weights, u32) = Weights::load(&path, DType::F32, &Device::Cpu)?;
    assert_eq!(config, 3);
    let a = r.pp("layer").get((3, 4), "a", Init::Zeros)?;
    assert_eq!(
        a.to_vec2::<f32>()?,
        w.pp("layer")
            .get((3, 4), "a", Init::Zeros)?
            .to_vec2::<f32>()?
    );
    assert!(!a.is_variable() && r.trained().is_empty());
    let wrong = r.pp("layer").get((4, 4), "a", Init::Zeros);
    assert!(wrong.is_err_and(|e| e.to_string().contains("layer.a has shape [3, 4]")));
    let missing = r.get(1, "c", Init::Zeros);
    assert!(missing.is_err_and(|e| e.to_string().contains("no tensor c")));
    Ok(())
}
