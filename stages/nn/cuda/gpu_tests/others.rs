//! Determinants, noise, pooling, memory.

use std::cell::Cell;

use candle_core::{DType, Device, Result, Tensor};

use super::super::driver;
use super::super::pool_op::bias_relu;
use super::super::resize_op::resize;
use super::{case, evaluate, gap, gpu};
use crate::metrics::resize::Resize;
use crate::models::pool::Pool;
use crate::nn::categorical::bits;
use crate::nn::conv::{Padding, conv2d_bias};
use crate::nn::gate::gate;
use crate::nn::inv_conv::log_abs_det;
use crate::nn::noise::Noise;

#[test]
fn determinants_agree() -> Result<()> {
    let Some(device) = gpu("determinants_agree") else {
        return Ok(());
    };
    for n in [1, 3, 12, 48, 96] {
        let dims: [&[usize]; 1] = [&[n, n]];
        let case = case(format!("log det {n}"), &dims, |x| log_abs_det(&x[0]));
        let exact = evaluate(&case, DType::F64, &Device::Cpu)?;
        let ours = evaluate(&case, DType::F64, &device)?;
        for (a, b) in ours.iter().zip(&exact) {
            let gap = gap(a, b)?;
            assert!(gap < 1e-8, "{n}: {gap:e}");
        }
    }
    Ok(())
}

#[test]
fn noise_is_the_hosts() -> Result<()> {
    let Some(device) = gpu("noise_is_the_hosts") else {
        return Ok(());
    };
    let (mut here, mut there) = (Noise::new(1, "n").at(3), Noise::new(1, "n").at(3));
    for n in [5, 100_003] {
        for dtype in [DType::F32, DType::F64] {
            let all = [
                (
                    here.uniform(n, dtype, &Device::Cpu)?,
                    there.uniform(n, dtype, &device)?,
                ),
                (
                    here.normal(n, dtype, &Device::Cpu)?,
                    there.normal(n, dtype, &device)?,
                ),
            ];
            for (a, b) in all {
                let bits = |t: Tensor| t.to_dtype(DType::F64)?.to_vec1::<f64>();
                assert!(
                    bits(a)? == bits(b.to_device(&Device::Cpu)?)?,
                    "{n} {dtype:?}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn pooling_agrees() -> Result<()> {
    let Some(device) = gpu("pooling_agrees") else {
        return Ok(());
    };
    let x = Noise::new(1, "n")
        .at(3)
        .normal((2, 17, 15, 40), DType::F32, &Device::Cpu)?
        .abs()?;
    let bias = Noise::new(1, "n")
        .at(4)
        .normal(40, DType::F32, &Device::Cpu)?;
    let there = x.to_device(&device)?;
    let same = |a: Tensor, b: Tensor| {
        gap(
            &b.to_device(&Device::Cpu)?.to_dtype(DType::F64)?,
            &a.to_dtype(DType::F64)?,
        )
    };
    for pool in [Pool::HalvingMax, Pool::Max, Pool::Mean] {
        assert!(
            same(pool.forward(&x)?, pool.forward(&there)?)? < 1e-6,
            "{pool:?}"
        );
    }
    let ours = there.copy()?;
    bias_relu(&ours, &bias.to_device(&device)?)?;
    assert!(same(x.broadcast_add(&bias)?.relu()?, ours)? < 1e-7);
    Ok(())
}

#[test]
fn resizing_is_the_hosts() -> Result<()> {
    let Some(device) = gpu("resizing_is_the_hosts") else {
        return Ok(());
    };
    let (h, w, c, side) = (32, 30, 3, 299);
    let bytes: Vec<u8> = (0..4 * h * w * c)
        .map(|i| (i * i * 37 % 256) as u8)
        .collect();
    let images: Vec<&[u8]> = bytes.chunks_exact(h * w * c).collect();
    for how in [Resize::TfLegacy, Resize::PytorchFid, Resize::Clean] {
        let expected = how.apply(&images, [h, w, c], side);
        let tables = [w, h].map(|from| how.table(from, side));
        let cuda = device.as_cuda_device()?;
        let ours = resize(cuda, &bytes, [4, h, w, c], side, how.is_bilinear(), &tables)?;
        assert!(ours.flatten_all()?.to_vec1::<f32>()? == expected, "{how:?}");
    }
    Ok(())
}

/// Memory is put back, not piled up: the same step many times needs no more than twice.
#[test]
fn steps_give_their_memory_back() -> Result<()> {
    let Some(device) = gpu("steps_give_their_memory_back") else {
        return Ok(());
    };
    let dims: [&[usize]; 3] = [&[16, 32, 32, 64], &[3, 3, 64, 64], &[64]];
    let case = case("conv", &dims, |x| {
        conv2d_bias(&x[0], &x[1], &x[2], 1, Padding::same(3))
    });
    let lowest = Cell::new(u64::MAX);
    let mut after_two = 0;
    for i in 0..20 {
        evaluate(&case, DType::F32, &device)?;
        device.synchronize()?;
        let free = driver::memory().map_or(0, |(free, _)| free);
        lowest.set(lowest.get().min(free));
        if i == 1 {
            after_two = free;
        }
    }
    assert!(
        lowest.get() + (64 << 20) >= after_two,
        "{} {after_two}",
        lowest.get()
    );
    Ok(())
}

#[test]
fn gates_and_bits_agree() -> Result<()> {
    let Some(device) = gpu("gates_and_bits_agree") else {
        return Ok(());
    };
    let chosen: Vec<f64> = (0..600).map(|i| f64::from(i * 37 % 256)).collect();
    let chosen = Tensor::new(&chosen[..], &Device::Cpu)?;
    let cases = [
        case("gate", &[&[3, 50, 48]], |x| gate(&x[0])),
        case("bits", &[&[600, 256]], |x| {
            let values = chosen.to_dtype(x[0].dtype())?.to_device(x[0].device())?;
            bits(&x[0], &values)
        }),
    ];
    for case in cases {
        let exact = evaluate(&case, DType::F64, &Device::Cpu)?;
        for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-4)] {
            let ours = evaluate(&case, dtype, &device)?;
            for (a, b) in ours.iter().zip(&exact) {
                assert!(gap(a, b)? < tolerance, "{dtype:?}");
            }
        }
    }
    Ok(())
}
