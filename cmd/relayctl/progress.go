package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// barAfter is how long work takes before it shows how far it is.
const barAfter = 2 * time.Second

// progress shows how far some work on messages is: a bar on a terminal, and where
// it took longer than two seconds a line at its end.
type progress struct {
	*app
	ctx      context.Context
	began    time.Time
	terminal bool
	total    int64 // octets; 0: not known
	octets   int64
	messages atomic.Int64 // the bar reads it

	group *mpb.Progress // nil: no bar yet
	bar   *mpb.Bar
}

func (a *app) workBar(ctx context.Context) *progress {
	f, ok := a.stderr.(*os.File)
	return &progress{app: a, ctx: ctx, began: a.now(), terminal: ok && term.IsTerminal(int(f.Fd()))}
}

// expect measures what is to be read.
func (p *progress) expect(paths []string) {
	if !p.terminal {
		return
	}
	for _, path := range paths {
		_ = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				if info, err := d.Info(); err == nil {
					p.total += info.Size()
				}
			}
			return p.ctx.Err()
		})
	}
}

// add says that so many octets more were dealt with, and how many messages that
// makes.
func (p *progress) add(octets, messages int) {
	p.octets += int64(octets)
	p.messages.Store(int64(messages))
	if p.bar == nil && p.terminal && p.now().Sub(p.began) > barAfter {
		p.show()
	}
	if p.bar == nil {
		return
	}
	if p.octets > p.total { // packed files are larger than they look
		p.bar.SetTotal(p.octets, false)
	}
	p.bar.SetCurrent(p.octets)
}

func (p *progress) show() {
	p.group = mpb.New(mpb.WithOutput(p.stderr), mpb.WithWidth(40))
	p.bar = p.group.AddBar(p.total,
		mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Percentage()),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return p.rate() })))
}

func (p *progress) rate() string {
	took, n := p.now().Sub(p.began), p.messages.Load()
	return fmt.Sprintf("%s, %.0f a second, in %s",
		count(n, "message"), float64(n)/max(took.Seconds(), 0.001), took.Round(time.Second/10))
}

// end takes the bar away, and says how long it took where that was long.
func (p *progress) end(messages int) {
	p.messages.Store(int64(messages))
	if p.bar != nil {
		p.bar.Abort(true)
		p.group.Wait()
	}
	if took := p.now().Sub(p.began); took > barAfter {
		p.note("%s.", p.rate())
	}
}
