package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// row is one line of the table: a load, and those who take it in turns.
type row struct {
	name  string
	unit  string
	less  bool   // smaller is better
	work  int    // messages or sessions a round; 0: CPU time says nothing here
	sides []side // the first is this build
	calm  bool   // a load waits until the one before it has stopped to cost
	cold  bool   // no load before the first round
}

// side takes the load of one row.
type side struct {
	name  string                                 // the head of its column
	rival bool                                   // ratios are to the best of the rivals
	ready func(context.Context) error            // before the first round, not measured; may be nil
	load  func(context.Context) (float64, error) // returns the value of one round
	root  func() (int, error)                    // the process whose tree is all of this side
}

// result is one round of one side.
type result struct {
	value float64
	cpu   float64 // seconds per 1,000 messages or sessions
}

// table runs the rows and prints medians, as Markdown: a column for each side, the value
// before the CPU seconds. A ratio is that of the first side to the best rival, the median
// of the rounds' ratios: the machine's speed drifts by tens of percent during a row, and
// hardly within a round.
func table(ctx context.Context, out, errs io.Writer, rows []row, rounds int) error {
	columns := names(rows)
	fmt.Fprintf(out, "| load | %s | unit | ratio | CPU ratio |\n", strings.Join(columns, " | "))
	fmt.Fprintf(out, "|---|%s\n", strings.Repeat("---|", len(columns)+3))
	var all []ratio
	for _, r := range rows {
		results, err := r.run(ctx, rounds)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		if to, rivals := r.print(out, columns, results); rivals {
			all = append(all, to)
		}
		r.note(errs, results)
	}
	if len(all) > 1 {
		by := func(a, b ratio) int { return cmp.Compare(a.value, b.value) }
		best, worst := slices.MaxFunc(all, by), slices.MinFunc(all, by)
		fmt.Fprintf(out, "\nAll rows are of one run. Best row: %s, %.2f×. Worst row: %s, %.2f×.\n",
			best.row, best.value, worst.row, worst.value)
	}
	return nil
}

// ratio is how much better the first side of a row is than its best rival.
type ratio struct {
	row   string
	value float64
}

// names are the sides of all rows, in the order in which they come first.
func names(rows []row) (all []string) {
	for _, r := range rows {
		for _, s := range r.sides {
			if !slices.Contains(all, s.name) {
				all = append(all, s.name)
			}
		}
	}
	return all
}

// run lets the sides take turns, and the side that begins changes with each round.
// Compactions and sweeps go on after a load, and share the processor's caches with
// the next one: a calm row waits for their end. Before the rounds each side takes
// the load once, unmeasured: the first load of a cluster and of the machine costs up
// to a half more. run returns the results of each side.
func (r row) run(ctx context.Context, rounds int) ([][]result, error) {
	for i, s := range r.sides {
		if r.cold {
			break
		}
		if err := r.warm(ctx, s); err != nil {
			return nil, fmt.Errorf("%s: %w", r.sides[i].name, err)
		}
	}
	results := make([][]result, len(r.sides))
	for round := range rounds {
		for i := range r.sides {
			i = (i + round) % len(r.sides)
			one, err := r.measure(ctx, r.sides[i])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.sides[i].name, err)
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

// print writes one line, and returns the ratio in it, if there is a rival.
func (r row) print(w io.Writer, columns []string, results [][]result) (to ratio, rivals bool) {
	fmt.Fprintf(w, "| %s |", r.name)
	for _, name := range columns {
		i := slices.IndexFunc(r.sides, func(s side) bool { return s.name == name })
		switch {
		case i < 0:
			fmt.Fprint(w, " – |")
		case r.work == 0:
			value, _ := medians(results[i])
			fmt.Fprintf(w, " %s |", figure(value))
		default:
			value, cpu := medians(results[i])
			fmt.Fprintf(w, " %s · %.3f |", figure(value), cpu)
		}
	}
	rival := r.bestRival(results)
	if rival < 0 {
		fmt.Fprintf(w, " %s | – | – |\n", r.unit)
		return ratio{}, false
	}
	value, cpu := r.ratios(results[0], results[rival])
	fmt.Fprintf(w, " %s | %.2f× | %s |\n", r.unit, value, cpu)
	return ratio{r.name, value}, true
}

// figure writes a value with three digits at least.
func figure(value float64) string {
	if value < 10 {
		return fmt.Sprintf("%.2f", value)
	}
	return fmt.Sprintf("%.1f", value)
}

// bestRival is the rival with the best median, -1 without any.
func (r row) bestRival(results [][]result) int {
	best, of := -1, 0.0
	for i, s := range r.sides {
		if !s.rival {
			continue
		}
		value, _ := medians(results[i])
		if best < 0 || r.less && value < of || !r.less && value > of {
			best, of = i, value
		}
	}
	return best
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
	for i, rounds := range results {
		fmt.Fprintf(w, " %s:", r.sides[i].name)
		for _, one := range rounds {
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
	others := "peers with their default sync"
	switch {
	case b.former != nil && b.former.empties:
		others = fmt.Sprintf("the first cluster begins with %d messages of history, which it sweeps", b.history)
	case b.former != nil:
		others = "the former build is " + b.former.binary
	case b.history > 0:
		others += fmt.Sprintf("; the relay begins with %d messages of history, which it sweeps", b.history)
	}
	if b.cpus > 0 {
		others += "; " + b.limitNote()
	}
	fmt.Fprintf(out, "%s, load %s; every 250 of the relay synced on a majority; %s; all on this machine, in turns,\n"+
		"median of %d; behind each value the CPU of all processes of a side, in seconds per 1,000 messages, recipients or\n"+
		"sessions, until its queue is empty; ratios are of the first column to the best of the peers, or the other build\n\n",
		time.Now().UTC().Format(time.DateOnly), machineLoad(), others, rounds)
	before, err := b.historyMiB(ctx)
	if err != nil {
		return err
	}
	if err := table(ctx, out, b.errs, rows, rounds); err != nil || b.history == 0 {
		return err
	}
	after, err := b.historyMiB(ctx)
	fmt.Fprintf(out, "\nHistory of the first cluster: %.0f MiB before the rows, %.0f MiB behind them, bound %.0f MiB.\n",
		before, after, before/boundPart)
	return err
}

// historyMiB is the size of the first cluster's history where it was preloaded, else 0.
func (b *bench) historyMiB(ctx context.Context) (float64, error) {
	if b.history == 0 {
		return 0, nil
	}
	octets, err := b.cluster.historyBytes(ctx)
	return octets / (1 << 20), err
}
