/// Numbers by tokens or requests, as points with straight lines between them; past its end a table keeps its slope.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    pub places: &'static [i64],
    pub values: &'static [f64],
}

impl Table {
    fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    fn at(&self, place: i64) -> f64 {
        let high = self.places.partition_point(|&each| each <= place).clamp(1, self.places.len() - 1);
        let low = high - 1;
        let share = (place - self.places[low]) as f64 / (self.places[high] - self.places[low]) as f64;
        self.values[low] + share * (self.values[high] - self.values[low])
    }
}

const MOST_NEAR: usize = 64;

