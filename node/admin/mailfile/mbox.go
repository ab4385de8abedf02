package mailfile

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
)

// errLarge says that a message does not fit.
var errLarge = errors.New("a message is too large")

// Mbox reads an mbox: messages that begin with a "From " line, behind an empty
// line or at the beginning. Not all programs quote lines of text that begin with
// "From ": where the first "From " line bears a time of day, as nearly all do, none
// without one begins a message. Of ">From " and ">>From " lines one > is taken off.
// received is the time of the "From " line, zero where it can not be read.
func Mbox(r io.Reader, fn func(n int, received time.Time, content []byte) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	var content []byte
	var received time.Time
	n, gap := 0, true // gap: the line before was empty
	timed := false    // the first "From " line bears a time of day
	emit := func() error {
		if n == 0 {
			return nil
		}
		// The empty line before "From " belongs to the format.
		if gap {
			content = content[:len(content)-len(content[lastLine(content):])]
		}
		return fn(n, received, content)
	}
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			switch {
			case gap && bytes.HasPrefix(line, []byte("From ")) && (!timed || timeOfDay.Match(line)):
				timed = timed || n == 0 && timeOfDay.Match(line)
				if err := emit(); err != nil {
					return err
				}
				n++
				content, received, gap = nil, fromTime(line), false
			case n == 0:
				if len(trimEnd(line)) > 0 {
					return fmt.Errorf("this is no mbox: it does not begin with a From line")
				}
			case len(content)+len(line) > MaxMessage:
				return errLarge
			default:
				gap = len(trimEnd(line)) == 0
				if bytes.HasPrefix(bytes.TrimLeft(line, ">"), []byte("From ")) && line[0] == '>' {
					line = line[1:]
				}
				content = append(content, line...)
			}
		}
		if errors.Is(err, io.EOF) {
			return emit()
		}
		if err != nil {
			return err
		}
	}
}

var timeOfDay = regexp.MustCompile(` [0-2]?[0-9]:[0-5][0-9](:[0-6][0-9])?\s`)

// lastLine is where the last line of content begins.
func lastLine(content []byte) int {
	return bytes.LastIndexByte(bytes.TrimSuffix(content, []byte("\n")), '\n') + 1
}

// fromTime reads the time at the end of "From sender Thu Jan  1 00:00:00 1970".
func fromTime(line []byte) time.Time {
	fields := strings.Fields(string(line))
	for _, layout := range []string{"Mon Jan 2 15:04:05 2006", "Mon Jan 2 15:04:05 MST 2006", "Mon Jan 2 15:04:05 2006 -0700"} {
		n := len(strings.Fields(layout))
		if len(fields) < n+1 {
			continue
		}
		if t, err := time.Parse(layout, strings.Join(fields[len(fields)-n:], " ")); err == nil {
			return t
		}
	}
	return time.Time{}
}
