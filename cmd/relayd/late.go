package main

import (
	"bufio"
	"io"
	"sync"
	"time"
)

// The buffer of log lines, and how long a line may stay in it.
const (
	lateSize = 64 << 10
	lateMost = 100 * time.Millisecond
)

// lateWriter is a zapcore.WriteSyncer that holds lines back for lateMost. Unlike
// zapcore.BufferedWriteSyncer it has no ticker: a process that logs nothing sleeps.
// It is safe for concurrent use.
type lateWriter struct {
	mu    sync.Mutex
	to    io.Writer
	buf   *bufio.Writer
	timer *time.Timer // nil before the first line
}

func newLateWriter(w io.Writer) *lateWriter {
	return &lateWriter{to: w, buf: bufio.NewWriterSize(w, lateSize)}
}

// Write implements io.Writer. A line is never written in two parts, unless it is
// larger than the buffer.
func (l *lateWriter) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(line) > l.buf.Available() && l.buf.Buffered() > 0 {
		_ = l.flush() // the lines behind those that are lost may get through
	}
	if l.buf.Buffered() == 0 {
		l.arm()
	}
	n, err := l.buf.Write(line)
	if err != nil {
		l.buf.Reset(l.to)
	}
	return n, err
}

// flush writes the buffer, and empties it where that fails: a disk that was full, or a
// pipe that nobody read, costs these lines, but a bufio.Writer would refuse all that come
// after them. The caller holds l.mu.
func (l *lateWriter) flush() error {
	err := l.buf.Flush()
	if err != nil {
		l.buf.Reset(l.to)
	}
	return err
}

// arm has the buffer flushed in time. The caller holds l.mu.
func (l *lateWriter) arm() {
	if l.timer == nil {
		l.timer = time.AfterFunc(lateMost, func() { _ = l.Sync() })
		return
	}
	l.timer.Reset(lateMost)
}

// Sync writes what is held back. It does not sync the file: a log line is not worth
// a disk flush.
func (l *lateWriter) Sync() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flush()
}
