//! Placing a directed acyclic graph in columns from left to right, with few crossings
//! (Sugiyama's method: layers, bends where an edge passes a layer, orders by mean neighbours).

/// Where things go: column and height, in units of one row.
pub struct Placed {
    /// Per node.
    pub nodes: Vec<(usize, f64)>,
    /// Per edge the points it passes, its ends included.
    pub edges: Vec<Vec<(usize, f64)>>,
    pub columns: usize,
    pub rows: f64,
}

/// Rounds of reordering; more change nothing on graphs of a paper's size.
const ROUNDS: usize = 12;
/// A bend takes less room than a node.
const BEND: f64 = 0.35;

/// Places `n` nodes; an edge leads from a node to one that reads it.
pub fn place(n: usize, edges: &[(usize, usize)]) -> Placed {
    let column = columns(n, edges);
    // Items 0..n are nodes, the rest bends.
    let mut item_column = column.clone();
    let mut chains: Vec<Vec<usize>> = Vec::new();
    for &(from, to) in edges {
        let mut chain = vec![from];
        for between in column[from] + 1..column[to] {
            item_column.push(between);
            chain.push(item_column.len() - 1);
        }
        chain.push(to);
        chains.push(chain);
    }
    let count = item_column.iter().max().map_or(0, |c| c + 1);
    let mut layers: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (item, column) in item_column.iter().enumerate() {
        layers[*column].push(item);
    }
    let mut neighbours: Vec<(Vec<usize>, Vec<usize>)> = vec![Default::default(); item_column.len()];
    for chain in &chains {
        for pair in chain.windows(2) {
            neighbours[pair[1]].0.push(pair[0]);
            neighbours[pair[0]].1.push(pair[1]);
        }
    }
    let size = |item: usize| if item < n { 1.0 } else { BEND };
    let mut height = vec![0.0; item_column.len()];
    for round in 0..ROUNDS {
        let forwards = round % 2 == 0;
        let order: Vec<usize> = if forwards {
            (0..count).collect()
        } else {
            (0..count).rev().collect()
        };
        for layer in order {
            let mean = |item: usize| {
                let near = if forwards {
                    &neighbours[item].0
                } else {
                    &neighbours[item].1
                };
                match near.len() {
                    0 => height[item],
                    many => near.iter().map(|i| height[*i]).sum::<f64>() / many as f64,
                }
            };
            let mut keyed: Vec<(f64, usize)> = layers[layer]
                .iter()
                .map(|item| (mean(*item), *item))
                .collect();
            // A stable sort: what is equal stays in the order of the file.
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
            layers[layer] = keyed.iter().map(|(_, item)| *item).collect();
            spread(&keyed, &size, &mut height);
        }
    }
    let top = height.iter().copied().fold(f64::MAX, f64::min);
    let bottom = height.iter().copied().fold(f64::MIN, f64::max);
    let point = |item: usize| (item_column[item], height[item] - top);
    Placed {
        nodes: (0..n).map(point).collect(),
        edges: chains
            .iter()
            .map(|chain| chain.iter().map(|i| point(*i)).collect())
            .collect(),
        columns: count,
        rows: if n == 0 { 0.0 } else { bottom - top + 1.0 },
    }
}

/// Puts the items of a layer as near as possible to where they want to be, without overlap:
/// items that would overlap move together around the mean of their wishes.
fn spread(wishes: &[(f64, usize)], size: &dyn Fn(usize) -> f64, height: &mut [f64]) {
    // Blocks of items that touch: first item, number of items, mean wish of the block's start.
    let mut offsets = Vec::with_capacity(wishes.len());
    let mut blocks: Vec<(usize, usize, f64)> = Vec::new();
    let mut offset = 0.0;
    for (i, (wish, item)) in wishes.iter().enumerate() {
        if i > 0 {
            offset += (size(wishes[i - 1].1) + size(*item)) / 2.0;
        }
        offsets.push(offset);
        blocks.push((i, 1, wish - offset));
        while blocks.len() > 1 && blocks[blocks.len() - 2].2 >= blocks[blocks.len() - 1].2 {
            let (_, last, wish) = blocks.remove(blocks.len() - 1);
            let Some(block) = blocks.last_mut() else {
                break;
            };
            let total = block.1 as f64 * block.2 + last as f64 * wish;
            block.1 += last;
            block.2 = total / block.1 as f64;
        }
    }
    for (first, count, start) in blocks {
        for i in first..first + count {
            height[wishes[i].1] = start + offsets[i];
        }
    }
}

/// The longest way from a source; a source itself stands just before its first reader.
fn columns(n: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut column = vec![0usize; n];
    // As many rounds as the longest way has edges; a graph without cycles settles by then.
    for _ in 0..n {
        let mut moved = false;
        for &(from, to) in edges {
            if column[to] <= column[from] {
                column[to] = column[from] + 1;
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    for node in 0..n {
        if edges.iter().all(|(_, to)| *to != node) {
            let readers = edges
                .iter()
                .filter(|(from, _)| *from == node)
                .map(|(_, to)| column[*to]);
            column[node] = readers.min().map_or(0, |c| c.saturating_sub(1));
        }
    }
    column
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_stand_right_of_what_they_read_and_nothing_overlaps() {
        let edges = [(0, 1), (0, 2), (1, 3), (2, 3), (0, 3), (4, 3)];
        let placed = place(5, &edges);
        for (from, to) in edges {
            assert!(placed.nodes[from].0 < placed.nodes[to].0);
        }
        assert_eq!(placed.nodes[4].0, 1, "a late source stands by its reader");
        for a in 0..5 {
            for b in 0..a {
                let ((ca, ya), (cb, yb)) = (placed.nodes[a], placed.nodes[b]);
                assert!(ca != cb || (ya - yb).abs() >= 0.999, "{a} and {b} overlap");
            }
        }
        assert_eq!(
            placed.edges[4].len(),
            3,
            "the long edge bends where it passes a column"
        );
    }

    #[test]
    fn an_empty_graph_has_no_size() {
        let placed = place(0, &[]);
        assert_eq!((placed.columns, placed.rows), (0, 0.0));
    }
}
