package remote

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"relay/queue"
)

// Spread is where else the mail of a target goes. The Link of a target holds for More, too; Fallback has its own.
type Spread struct {
	Weight   int // of the target itself, beside More
	More     []Weighted
	Fallback *Target // where the mail goes that no other host took, or refused for good; nil: nowhere
}

// Weighted is a target that is tried first in Weight of all cases; the others follow.
type Weighted struct {
	Target
	Weight int
}

// ParseSpread reads what String writes.
func ParseSpread(text string) (*Spread, error) {
	s := &Spread{}
	for i, word := range strings.Fields(text) {
		weight, name, _ := strings.Cut(word, "=")
		t := Target{}
		n, err := strconv.Atoi(weight)
		if err == nil && name != "" {
			t, err = ParseTarget(name)
		}
		switch {
		case err != nil || n < 0 || i == 0 && name != "":
			return nil, fmt.Errorf("remote: %q is not a spread", text)
		case i == 0:
			s.Weight = n
		case n == 0:
			s.Fallback = &t
		default:
			s.More = append(s.More, Weighted{t, n})
		}
	}
	return s, nil
}

// String writes the weight of the target, then weight and name of each one in More, and the fallback with weight 0.
func (s *Spread) String() string {
	words := []string{strconv.Itoa(s.Weight)}
	for _, w := range s.More {
		words = append(words, fmt.Sprintf("%d=%s", w.Weight, w.Target))
	}
	if s.Fallback != nil {
		words = append(words, "0="+s.Fallback.String())
	}
	return strings.Join(words, " ")
}

// spreadHops finds the hops of a target, and of its spread: by lot, the heavier ones more often first.
func (a *Agent) spreadHops(ctx context.Context, job *queue.Job, t Target) ([]hop, *fault) {
	s := t.Spread
	if s == nil {
		return a.targetHops(ctx, job, t)
	}
	var all []hop
	var why *fault
	weights, targets := []int{s.Weight}, []Target{t}
	for _, w := range s.More {
		w.Target.Link = t.Link
		weights, targets = append(weights, w.Weight), append(targets, w.Target)
	}
	for _, part := range drawn(weights, rand.IntN) {
		hops, f := a.targetHops(ctx, job, targets[part])
		for _, h := range hops {
			h.part = part
			all = append(all, h)
		}
		if f != nil {
			why = f
		}
	}
	if s.Fallback == nil || len(all) == 0 && why != nil && why.outcome == queue.Failed {
		return all, noHops(all, why)
	}
	hops, f := a.targetHops(ctx, job, *s.Fallback)
	for _, h := range hops {
		h.last = true
		all = append(all, h)
	}
	if f != nil {
		why = f
	}
	return all, noHops(all, why)
}

// noHops: why counts only where nothing was found.
func noHops(all []hop, why *fault) *fault {
	if len(all) > 0 {
		return nil
	}
	return why
}

func (a *Agent) targetHops(ctx context.Context, job *queue.Job, t Target) ([]hop, *fault) {
	if t.Kind == MX {
		return a.mxHops(ctx, job.Domain)
	}
	return a.hostHops(ctx, t)
}

// drawn puts the numbers of targets in an order by lot. draw returns a number below its argument.
func drawn(weights []int, draw func(int) int) (all []int) {
	rest, sum := []int{}, 0
	for i, w := range weights {
		rest, sum = append(rest, i), sum+w
	}
	for len(rest) > 0 {
		at, i := draw(max(sum, 1)), 0
		for ; i < len(rest)-1 && at >= weights[rest[i]]; i++ {
			at -= weights[rest[i]]
		}
		all, sum = append(all, rest[i]), sum-weights[rest[i]]
		rest = slices.Delete(rest, i, i+1)
	}
	return all
}

// nextLast is the first hop from i on that is of the fallback, -1 where there is none.
func nextLast(hops []hop, i int) int {
	if i > 0 && hops[i-1].last {
		return -1 // its hosts have had their turn
	}
	n := slices.IndexFunc(hops[i:], func(h hop) bool { return h.last })
	if n < 0 {
		return -1
	}
	return i + n
}
