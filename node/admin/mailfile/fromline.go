package mailfile

import (
	"bytes"
	"cmp"
	"regexp"
	"strings"
	"time"
)

// style is how much a "From " line tells; a file keeps to the style of its first.
type style int

const (
	notFrom  style = iota
	anyFrom        // "From " and some words
	timeFrom       // with a time of day and a year, in a language that this package can not read
	bareFrom       // "From " or "From -" alone
	longFrom       // with all that fullFrom has, and more words behind it
	fullFrom       // with weekday, month, day, time and year
)

var (
	months  = `(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)`
	zone    = `(?:[-+]\d{4}|[A-Za-z]{1,5}(?:\s+DST)?)`
	clock   = `\d{1,2}:\d{2}(?::\d{2})?`
	year    = `(?:\d{4}|\d{2})`
	weekday = `(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)`
	// "Thu Feb  1 10:00:00 2024", with a zone before or behind the year.
	asctime = `(` + weekday + `),?\s+(` + months + `)\s+(\d{1,2})\s+(` + clock + `)(?:\s+(` + zone + `))?\s+(` +
		year + `)(?:\s+(` + zone + `))?`
	// "Fri, 16 Sep 2016 10:00:00 +0200".
	rfc822 = `(` + weekday + `),?\s+(\d{1,2})\s+(` + months + `)\s+(` + year + `)\s+(` + clock + `)(?:\s+(` + zone + `))?`

	behind     = `(?:\s+\(.*\)|\s+remote from \S+)?\s*$`
	asctimeEnd = regexp.MustCompile(`(?i)\s` + asctime + behind)
	rfc822End  = regexp.MustCompile(`(?i)\s` + rfc822 + behind)
	// usual is what programs write that make From_ lines: sender and date in a fixed form.
	usualZone = `(?: (?:[-+]\d{4}|[A-Za-z]{1,5}))?`
	usual     = regexp.MustCompile(`(?i)^From .*\S +(?:` +
		weekday + ` ` + months + ` +\d{1,2} \d\d:\d\d(?::\d\d)?` + usualZone + ` \d{4}|` +
		weekday + `, \d{1,2} ` + months + ` \d{4} \d\d:\d\d(?::\d\d)?)` + usualZone + `(?:\s|$)`)

	timeOfDay = regexp.MustCompile(`\s[0-2]?\d:[0-5]\d(:[0-6]\d)?\s(.*\s)?(19|20)\d\d(\s|$)`)

	fieldStart = regexp.MustCompile(`^[!-9;-~]+[ \t]*:`)
	webAddress = regexp.MustCompile(`(?i)^(?:https?|ftp|file)://`)
	mailStart  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*[ \t]*:`)
)

// styleOf tells what a line that begins with "From " says.
func styleOf(line []byte) style {
	text := trimEnd(line)
	if !bytes.HasPrefix(text, []byte("From ")) {
		return notFrom
	}
	switch rest := bytes.TrimSpace(text[5:]); {
	case len(rest) == 0, string(rest) == "-":
		return bareFrom
	case asctimeEnd.Match(text), rfc822End.Match(text):
		return fullFrom
	case usual.Match(text):
		return longFrom
	case timeOfDay.Match(text):
		return timeFrom
	}
	return anyFrom
}

// isField reports whether a line begins a field of a message's header.
func isField(line []byte) bool { return fieldStart.Match(line) }

// isMail reports whether a file that begins so is a message. RFC 5322 would let a
// field's name begin almost any file, JSON and lists of addresses of the web too.
func isMail(content []byte) bool {
	top := content[:min(len(content), 256)]
	return mailStart.Match(top) && !webAddress.Match(top)
}

// fromTime reads the time of a "From " line; zero where it has none that can be
// read. Without a zone it is UTC.
func fromTime(line []byte) time.Time {
	text := string(trimEnd(line))
	if styleOf(line) == longFrom {
		text = usual.FindString(text)
	}
	var day, month, year, at, zone string
	if m := asctimeEnd.FindStringSubmatch(text); m != nil {
		month, day, at, year, zone = m[2], m[3], m[4], m[6], cmp.Or(m[5], m[7])
	} else if m := rfc822End.FindStringSubmatch(text); m != nil {
		day, month, year, at, zone = m[2], m[3], m[4], m[5], m[6]
	} else {
		return time.Time{}
	}
	month = strings.ToUpper(month[:1]) + strings.ToLower(month[1:])
	if strings.Count(at, ":") == 1 {
		at += ":00"
	}
	layout := "2 Jan 2006 15:04:05 -0700"
	if len(year) == 2 {
		layout = "2 Jan 06 15:04:05 -0700"
	}
	t, err := time.Parse(layout, strings.Join([]string{day, month, year, at, offsetOf(zone)}, " "))
	if err != nil {
		return time.Time{}
	}
	return t
}

// offsetOf turns a zone's name into its offset; names that are not known count
// as UTC (RFC 5322 §4.3).
func offsetOf(zone string) string {
	if len(zone) == 5 && (zone[0] == '+' || zone[0] == '-') {
		return zone
	}
	zone = strings.Join(strings.Fields(zone), " ")
	known := map[string]string{
		"MET DST": "+0200", "CET DST": "+0200",
		"EST": "-0500", "EDT": "-0400", "CST": "-0600", "CDT": "-0500", "MST": "-0700", "MDT": "-0600", "PST": "-0800",
		"PDT": "-0700", "CET": "+0100", "MET": "+0100", "CEST": "+0200", "MEST": "+0200", "EET": "+0200", "EEST": "+0300",
		"BST": "+0100", "MSK": "+0300", "JST": "+0900",
	}
	if offset, ok := known[strings.ToUpper(zone)]; ok {
		return offset
	}
	return "+0000"
}
