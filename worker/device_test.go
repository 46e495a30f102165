package worker

import "testing"

func TestLocalRank(t *testing.T) {
	for _, c := range []struct {
		id   string
		want int
	}{{"0", 0}, {"7", 7}, {"12", 12}, {"-3", 0}, {"gpu-host", 0}, {"", 0}} {
		if got := localRank(c.id); got != c.want {
			t.Errorf("worker %q takes GPU %d of its machine, want %d", c.id, got, c.want)
		}
	}
}
