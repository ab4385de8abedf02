package readyq

// due is one item of the due heap. A negative slot is the complement of a
// destination whose back-off ends.
type due struct {
	at   int64
	slot int32
	tie  uint32
}

// heap is a 4-ary heap: flatter than a binary one, so that a million items cost
// few cache misses. Entries know their place (entry.a) and can be taken out.
type heap struct {
	items []due
	t     *table
}

func (x due) before(y due) bool { return x.at < y.at || x.at == y.at && x.tie < y.tie }

func (h *heap) put(i int, x due) {
	h.items[i] = x
	if x.slot >= 0 {
		h.t.at(x.slot).a = int32(i)
	}
}

func (h *heap) push(x due) {
	h.items = append(h.items, x)
	h.up(len(h.items)-1, x)
}

func (h *heap) up(i int, x due) {
	for i > 0 {
		p := (i - 1) / 4
		if !x.before(h.items[p]) {
			break
		}
		h.put(i, h.items[p])
		i = p
	}
	h.put(i, x)
}

func (h *heap) down(i int, x due) {
	n := len(h.items)
	for {
		c := 4*i + 1
		if c >= n {
			break
		}
		best := c
		for k := c + 1; k < min(c+4, n); k++ {
			if h.items[k].before(h.items[best]) {
				best = k
			}
		}
		if !h.items[best].before(x) {
			break
		}
		h.put(i, h.items[best])
		i = best
	}
	h.put(i, x)
}

// remove takes out the item at place i.
func (h *heap) remove(i int) due {
	x := h.items[i]
	last := len(h.items) - 1
	y := h.items[last]
	h.items = h.items[:last]
	if i < last {
		if y.before(x) {
			h.up(i, y)
		} else {
			h.down(i, y)
		}
	}
	if last == 0 && cap(h.items) > 1<<16 {
		h.items = nil
	}
	return x
}
