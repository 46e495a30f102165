package membership

// spread orders candidates so that two that follow each other are on different machines, as far as there are machines
// enough, and keeps the order otherwise: of the machines that differ from the last one's, the one with the most workers left
// comes next, the first of them in the list. It takes the number of workers times that of machines.
func spread(list []Candidate) []Candidate {
	of := map[string]int{}
	var left [][]Candidate // by machine, in the order of the list
	for _, c := range list {
		h, known := of[c.Host]
		if !known {
			h = len(left)
			of[c.Host], left = h, append(left, nil)
		}
		left[h] = append(left[h], c)
	}
	if len(left) < 2 || len(left) == len(list) {
		return list
	}
	out := make([]Candidate, 0, len(list))
	last := -1
	for range list {
		next := -1
		for h := range left {
			if h != last && len(left[h]) > 0 && (next < 0 || len(left[h]) > len(left[next])) {
				next = h
			}
		}
		if next < 0 {
			next = last // nobody else is left
		}
		out, left[next], last = append(out, left[next][0]), left[next][1:], next
	}
	return out
}
