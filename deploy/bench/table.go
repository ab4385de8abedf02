package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// row is one line of the table: a load, and those who take it in turns.
type row struct {
	name  string
	unit  string
	less  bool   // smaller is better
	work  int    // messages or sessions a round; 0: CPU time says nothing here
	sides []side // one or two; the first is this build
	calm  bool   // a load waits until the one before it has stopped to cost
}

// side takes the load of one row.
type side struct {
	ready func(context.Context) error            // before the first round, not measured; may be nil
	load  func(context.Context) (float64, error) // returns the value of one round
	root  func() (int, error)                    // the process whose tree is all of this side
}

// result is one round of one side.
type result struct {
	value float64
	cpu   float64 // seconds per 1,000 messages or sessions
}

// table runs the rows and prints medians. first and second head the columns of
// the sides. A ratio is the median of the rounds' ratios: the machine's speed
// drifts by tens of percent during a row, and hardly within a round.
func table(ctx context.Context, out, errs io.Writer, rows []row, rounds int, first, second string) error {
	w := tabwriter.NewWriter(out, 2, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "load\t%s\tCPU s/1,000\t%s\tCPU s/1,000\tunit\tratio\tCPU ratio\t\n", first, second)
	for _, r := range rows {
		results, err := r.run(ctx, rounds)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		r.print(w, results)
		r.note(errs, results)
	}
	return w.Flush()
}

// run lets the sides take turns, and the side that begins changes with each round.
// Compactions and sweeps go on after a load, and share the processor's caches with
// the next one: a calm row waits for their end. Before the rounds each side takes
// the load once, unmeasured: the first load of a cluster and of the machine costs up
// to a half more. run returns the results of each side.
func (r row) run(ctx context.Context, rounds int) ([][]result, error) {
	for i, s := range r.sides {
		if err := r.warm(ctx, s); err != nil {
			return nil, fmt.Errorf("side %d: %w", i+1, err)
		}
	}
	results := make([][]result, len(r.sides))
	for round := range rounds {
		for i := range r.sides {
			i = (i + round) % len(r.sides)
			one, err := r.measure(ctx, r.sides[i])
			if err != nil {
				return nil, fmt.Errorf("side %d: %w", i+1, err)
			}
			results[i] = append(results[i], one)
		}
	}
	return results, nil
}

// A load begins when all sides together used less than calmShare of a processor
// for calmTime, or after calmMost.
const (
	calmShare = 0.3
	calmTime  = 500 * time.Millisecond
	calmMost  = 5 * time.Second
)

// rest waits until the sides have done what a load left to do.
func (r row) rest(ctx context.Context) error {
	for end := time.Now().Add(calmMost); time.Now().Before(end); {
		before, err := r.cpu()
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(calmTime):
		}
		after, err := r.cpu()
		if err != nil || (after-before).Seconds() < calmShare*calmTime.Seconds() {
			return err
		}
	}
	return nil
}

// cpu returns the CPU time that all sides have used.
func (r row) cpu() (sum time.Duration, err error) {
	for _, s := range r.sides {
		root, err := s.root()
		if err != nil {
			return 0, err
		}
		one, err := treeCPU(root)
		if err != nil {
			return 0, err
		}
		sum += one
	}
	return sum, nil
}

func (r row) warm(ctx context.Context, s side) error {
	if s.ready != nil {
		if err := s.ready(ctx); err != nil {
			return err
		}
	}
	_, err := s.load(ctx)
	return err
}

func (r row) measure(ctx context.Context, s side) (one result, err error) {
	if r.calm {
		if err := r.rest(ctx); err != nil {
			return one, err
		}
	}
	root, err := s.root()
	if err != nil {
		return one, err
	}
	before, err := treeCPU(root)
	if err != nil {
		return one, err
	}
	if one.value, err = s.load(ctx); err != nil {
		return one, err
	}
	after, err := treeCPU(root)
	if r.work > 0 {
		one.cpu = (after - before).Seconds() * 1000 / float64(r.work)
	}
	return one, err
}

func (r row) print(w io.Writer, results [][]result) {
	value, cpu := medians(results[0])
	if len(results) == 1 {
		fmt.Fprintf(w, "%s\t%.1f\t%s\t–\t–\t%s\t–\t–\t\n", r.name, value, r.seconds(cpu), r.unit)
		return
	}
	otherValue, otherCPU := medians(results[1])
	ratio, cpuRatio := r.ratios(results[0], results[1])
	fmt.Fprintf(w, "%s\t%.1f\t%s\t%.1f\t%s\t%s\t%.2f×\t%s\t\n", r.name,
		value, r.seconds(cpu), otherValue, r.seconds(otherCPU), r.unit, ratio, cpuRatio)
}

// ratios returns the medians of what the sides' values and CPU times were to each
// other in each round.
func (r row) ratios(these, others []result) (value float64, cpu string) {
	var values, cpus []float64
	for i, one := range these {
		other := others[i]
		if r.less {
			values = append(values, other.value/one.value)
		} else {
			values = append(values, one.value/other.value)
		}
		if other.cpu > 0 {
			cpus = append(cpus, one.cpu/other.cpu)
		}
	}
	if r.work == 0 || len(cpus) == 0 {
		return median(values), "–"
	}
	return median(values), fmt.Sprintf("%.3f", median(cpus))
}

func (r row) seconds(cpu float64) string {
	if r.work == 0 {
		return "–"
	}
	return fmt.Sprintf("%.3f", cpu)
}

// note writes down each round.
func (r row) note(w io.Writer, results [][]result) {
	fmt.Fprintf(w, "%s, %s:", r.name, r.unit)
	for i, side := range results {
		fmt.Fprintf(w, " side %d:", i+1)
		for _, one := range side {
			fmt.Fprintf(w, " %.1f (CPU %s)", one.value, r.seconds(one.cpu))
		}
	}
	fmt.Fprintln(w)
}

func medians(results []result) (value, cpu float64) {
	var values, cpus []float64
	for _, one := range results {
		values, cpus = append(values, one.value), append(cpus, one.cpu)
	}
	return median(values), median(cpus)
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

func wanted(name, only string) bool {
	if only == "" {
		return true
	}
	for part := range strings.SplitSeq(only, ",") {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// printTable runs the rows that are wanted, and says under which conditions.
func (b *bench) printTable(ctx context.Context, out io.Writer, rounds int, only string) error {
	rows := slices.DeleteFunc(b.rows(), func(r row) bool { return !wanted(r.name, only) })
	if len(rows) == 0 {
		return fmt.Errorf("no row's name contains any of %q", only)
	}
	first, second, peers := fmt.Sprintf("relay, %s", b.cluster.size()), "peer, 1 node", "peers with their default sync"
	if b.former != nil {
		first, second, peers = "this build, "+b.cluster.size(), "former build, "+b.former.size(),
			"the former build is "+b.former.binary
	}
	fmt.Fprintf(out, "%s; every 250 of the relay synced on a majority; %s; all on this machine, in turns, median of %d;\n"+
		"CPU of all processes of a side, in seconds per 1,000 messages or sessions, until its queue is empty\n",
		time.Now().UTC().Format(time.DateOnly), peers, rounds)
	return table(ctx, out, b.errs, rows, rounds, first, second)
}
