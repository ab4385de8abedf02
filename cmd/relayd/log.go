package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"relay/cmd/internal/wording"
)

// newLogger writes JSON or console lines to w. Lines below warn are buffered
// for a tenth of a second at most: a busy relay logs thousands a second, and a
// system call each would cost more than many of the events they tell of. From
// warn on everything is written at once. flush writes what is left and may be
// called more than once.
func newLogger(level, format string, w io.Writer) (log *zap.Logger, flush func(), err error) {
	least, err := zapcore.ParseLevel(level)
	if err != nil {
		return nil, nil, fmt.Errorf("log.level: %w", err)
	}
	out := newLateWriter(w)
	core := urgentCore{zapcore.NewCore(newEncoder(format), out, least)}
	return zap.New(core), func() { _ = out.Sync() }, nil
}

func newEncoder(format string) zapcore.Encoder {
	if format == "console" {
		c := zap.NewDevelopmentEncoderConfig()
		c.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		return zapcore.NewConsoleEncoder(c)
	}
	c := zap.NewProductionEncoderConfig()
	c.TimeKey = "time"
	c.EncodeTime = func(t time.Time, enc zapcore.PrimitiveArrayEncoder) {
		enc.AppendString(t.UTC().Format("2006-01-02T15:04:05.000Z"))
	}
	c.EncodeDuration = zapcore.SecondsDurationEncoder
	return zapcore.NewJSONEncoder(c)
}

// lastWord lets log lines through until the process says its last one: the error that
// ended it must be the last line that an operator sees.
type lastWord struct {
	mu   sync.Mutex
	to   io.Writer
	said bool
}

// Write implements io.Writer.
func (l *lastWord) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.said {
		return len(b), nil
	}
	return l.to.Write(b)
}

// close drops whatever is logged from now on.
func (l *lastWord) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = true
}

// say writes the cause of the process's end, as its last line.
func (l *lastWord) say(err error) {
	l.close()
	fmt.Fprintln(l.to, "relayd: "+oneLine(err))
}

// oneLine is the text of an error on one line. Errors that were joined come one
// after the other, the cause first.
func oneLine(err error) string {
	var parts []string
	for line := range strings.Lines(wording.Files(err)) {
		line = strings.TrimSpace(line)
		if line == "" || line == pebbleNoise || slices.Contains(parts, line) {
			continue
		}
		parts = append(parts, line)
	}
	return strings.Join(parts, "; ")
}

// pebbleNoise is what Pebble joins to errors of damage for its own use.
const pebbleNoise = "<corruption detail carrier>"

// urgentCore flushes behind every line from warn on.
type urgentCore struct{ zapcore.Core }

func (c urgentCore) With(f []zapcore.Field) zapcore.Core { return urgentCore{c.Core.With(f)} }

func (c urgentCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c urgentCore) Write(e zapcore.Entry, f []zapcore.Field) error {
	err := c.Core.Write(e, f)
	if e.Level >= zapcore.WarnLevel {
		_ = c.Core.Sync()
	}
	return err
}
