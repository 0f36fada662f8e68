use super::*;

#[test]
fn early_stopping_counts_from_the_best_epoch_whose_weights_can_be_kept() -> Result<()> {
    for (patience, epochs) in [(2, 200), (0, 12)] {
        best_is_kept(patience, epochs)?;
    }
    Ok(())
}

fn best_is_kept(patience: u64, epochs: u64) -> Result<()> {
    let s = Settings {
        patience,
        keep: Keep::Best {},
        epochs,
        lr: 0.5,
        ..PLAIN
    };
    let (bench, _, history) = train(&s, false, None)?;
    let losses: Vec<f64> = history.iter().map(|e| e.valid["loss"]).collect();
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    let at = losses.iter().position(|l| *l == best).context("no best")?;
    assert_ne!(
        at + 1,
        history.len(),
        "the last is the best: nothing is tested"
    );
    if patience > 0 {
        assert_eq!(history.len(), at + 3);
    } else {
        assert_eq!(history.len() as u64, epochs);
    }
    let path = bench.output::<Toy>("model");
    let (w, ()): (Weights, ()) = Weights::load(&path, DType::F32, &Device::Cpu)?;
    let again = Line { w }.validate(
        &Points(5).batch(&[0, 1, 2, 3])?,
        &mut Noise::new(5, "toy.valid").at(0),
    )?;
    let last = Line {
        w: Weights::load::<()>(&path, DType::F32, &Device::Cpu)?.0,
    }
    .validate(
        &Points(5).batch(&[4])?,
        &mut Noise::new(5, "toy.valid").at(1),
    )?;
    let loss = |l: &Loss| -> Result<f64> { Ok(l.total.to_dtype(DType::F64)?.to_scalar::<f64>()?) };
    assert!(((loss(&again)? * 4.0 + loss(&last)?) / 5.0 - best).abs() < 1e-12);
    Ok(())
}

/// What a run of these settings leaves of the line, and of its buffer.
fn left(keep: Keep) -> Result<(Vec<f32>, f32)> {
    let (bench, ..) = train(&Settings { keep, ..PLAIN }, false, None)?;
    let path = bench.output::<Toy>("model");
    let (w, ()): (Weights, ()) = Weights::load(&path, DType::F32, &Device::Cpu)?;
    let seen = w.buffer(1, "seen", Init::Zeros)?.get(0)?.to_scalar()?;
    Ok((w.get(2, "line", Init::Zeros)?.to_vec1()?, seen))
}

#[test]
fn an_average_is_of_what_is_trained() -> Result<()> {
    let average = |decay| left(Keep::Average { decay });
    let last = left(Keep::Last {})?;
    assert_eq!(average(0.0)?, last);
    let (line, seen) = average(0.9)?;
    assert!(line[0] != last.0[0] && line[1] != last.0[1]);
    // A buffer is no matter of averages: 18 points at the start, one more in each of 12 steps.
    assert_eq!((seen, last.1), (30.0, 30.0));
    let error = average(1.0).err().map(|e| e.to_string());
    let text = "train.keep.decay = 1 is no share of an average; hint: 0.999";
    assert_eq!(error.as_deref(), Some(text));
    Ok(())
}
