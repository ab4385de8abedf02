package tuning

import (
	"errors"
	"io"
	stdlog "log"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/zap"
)

// raftLog carries raft's own log lines to zap, from WARN upwards, but for
// what raft takes for an error whenever a peer's connection ends.
type raftLog struct {
	z    *zap.SugaredLogger
	name string
	args []any
}

// NewRaftLog makes the logger that raft is given.
func NewRaftLog(z *zap.Logger) hclog.Logger {
	return &raftLog{z: z.Named("raft").WithOptions(zap.WithCaller(false)).Sugar(), name: "raft"}
}

func (l *raftLog) Log(level hclog.Level, msg string, args ...any) {
	switch {
	case level >= hclog.Error:
		l.Error(msg, args...)
	case level == hclog.Warn:
		l.z.Warnw(msg, args...)
	}
}

func (l *raftLog) Trace(string, ...any)           {}
func (l *raftLog) Debug(string, ...any)           {}
func (l *raftLog) Info(string, ...any)            {}
func (l *raftLog) Warn(msg string, args ...any)   { l.z.Warnw(msg, args...) }
func (l *raftLog) IsTrace() bool                  { return false }
func (l *raftLog) IsDebug() bool                  { return false }
func (l *raftLog) IsInfo() bool                   { return false }
func (l *raftLog) IsWarn() bool                   { return true }
func (l *raftLog) IsError() bool                  { return true }
func (l *raftLog) ImpliedArgs() []any             { return l.args }
func (l *raftLog) Name() string                   { return l.name }
func (l *raftLog) Named(string) hclog.Logger      { return l }
func (l *raftLog) ResetNamed(string) hclog.Logger { return l }
func (l *raftLog) SetLevel(hclog.Level)           {}
func (l *raftLog) GetLevel() hclog.Level          { return hclog.Warn }
func (l *raftLog) With(args ...any) hclog.Logger {
	return &raftLog{z: l.z.With(args...), name: l.name, args: append(l.args[:len(l.args):len(l.args)], args...)}
}

func (l *raftLog) StandardLogger(*hclog.StandardLoggerOptions) *stdlog.Logger {
	return stdlog.New(io.Discard, "", 0)
}

func (l *raftLog) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return io.Discard }

func (l *raftLog) Error(msg string, args ...any) {
	if msg == "failed to decode incoming command" || pastTerm(args) {
		l.z.Debugw(msg, args...)
		return
	}
	l.z.Errorw(msg, args...)
}

// pastTerm reports whether a line is about a call that lost its sense with its term.
func pastTerm(args []any) bool {
	for _, a := range args {
		if err, ok := a.(error); ok && errors.Is(err, ErrPastTerm) {
			return true
		}
	}
	return false
}

// ErrPastTerm is what raft gets for a call that was kept back past the end of its term.
var ErrPastTerm = errors.New("cluster: this node does not lead in the term of the call any more")
