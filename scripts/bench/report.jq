# The rounds of a bench.json to a table of each profile, and each figure that was promised and whether it is reached: with --arg form markdown as text,
# with --arg form json as {table, promised}, numbers not rounded.

def median: sort | if length == 0 then null elif length % 2 == 1 then .[length / 2 | floor] else (.[length / 2] + .[length / 2 - 1]) / 2 end;
# Half of the distance from the least to the greatest, in percent of the median.
def spread: if length < 2 or median == 0 or median == null then null else (max - min) / 2 / median * 100 end;

# Three significant digits, more before the point; a figure that is missing is a dash.
def number:
  if . == null then "-"
  elif . == 0 then "0"
  else . as $x | (if $x < 0 then -$x else $x end) as $a
    | (if $a >= 100 then 1 elif $a >= 10 then 10 elif $a >= 1 then 100 else 1000 end) as $scale
    | ($x * $scale | round / $scale | tostring)
  end;

. as $run
| def values($profile; $variant; $figure):
    [$run.rounds[] | select(.profile == $profile and .variant == $variant) | .[$figure] | select(. != null)];
  def value($profile; $variant; $figure): values($profile; $variant; $figure) | median;
  def cell($profile; $variant; $figure):
    values($profile; $variant; $figure) | (median | number) + (spread | if . == null then "" else " ±\(round)%" end);
  def ratio($a; $b): if $a == null or $b == null or $b == 0 then null else $a / $b end;
  def against($profile; $variant; $figure; $reference): ratio(value($profile; $variant; $figure); value($profile; $reference; $figure)) | number;
  def retransmits($profile; $variant):
    [("tcp1", "tcp4", "reverse") as $t | value($profile; $variant; $t + "_retransmits") | number] | join(" / ");
  def row: "| " + join(" | ") + " |";

  # How many workers a variant of tunneld says that it has; one where it does not say.
  def workers($variant): [$run.rounds[] | select(.variant == $variant) | .show // empty | .. | objects | .workers | numbers] | first // 1;

  # The figures of issue 3, ratios of medians. best: the userspace peer that is best at it.
  def best($profile; $figure; f): [$run.variants[] | select(.kind == "user") | .name as $v | {$v, x: value($profile; $v; $figure)} | select(.x != null)] | f;
  def peer($profile; $figure; $reference):
    if $reference == "most" then best($profile; $figure; max_by(.x)) elif $reference == "least" then best($profile; $figure; min_by(.x))
    elif $reference == null then {v: null, x: 1} else {v: $reference, x: value($profile; $reference; $figure)} end;
  def target($profile; $what; $variant; $figure; $reference; $relation; $bound):
    peer($profile; $figure; $reference) as $peer
    | ratio(value($profile; $variant; $figure); $peer.x) as $got
    | {$profile, $what, $variant,
       promised: ((if $relation == ">=" then "at least " elif $relation == "<" then "under " else "at most " end)
        + (if $reference == null then "\($bound) MB" else "\($bound) × " + ($peer.v // "the best userspace peer") end)),
       $got,
       verdict: (if $got == null then "not measured"
        elif ($relation == ">=" and $got >= $bound) or ($relation == "<=" and $got <= $bound) or ($relation == "<" and $got < $bound) then "reached"
        else "missed" end)};
  def targets($profile):
    ($profile == "default") as $default
    | ({tcp1: "one TCP flow", tcp4: "four TCP flows", reverse: "one TCP flow, reverse"} | to_entries[]
        | target($profile; .value; "tunnel-gre"; .key; "ovs"; ">="; if $default then 3.0 else 2.5 end),
          (if $default then target($profile; .value; "tunnel-gre"; .key; "vxlan"; ">="; 0.25) else empty end)),
      target($profile; "one TCP flow"; "tunnel-udp"; "tcp1"; "vxlan"; ">="; if $default then 0.8 else 0.85 end),
      target($profile; "delivered 64-byte UDP"; "tunnel-gre"; "udp64"; "most"; ">="; 1.5),
      target($profile; "delivered 64-byte UDP"; "tunnel-udp"; "udp64"; "most"; ">="; if $default then 1.5 else 1.0 end),
      target($profile; "ping round trip"; ("tunnel-gre", "tunnel-udp"); "ping"; "least"; "<="; 1.5),
      target($profile; "CPU time per GB"; "tunnel-gre"; "cpu"; "ovs"; "<"; 0.5),
      target($profile; "CPU time per GB"; "tunnel-udp"; "cpu"; "vxlan"; "<"; 2.0),
      (("tunnel-gre", "tunnel-udp") as $v | target($profile; "peak resident memory"; $v; "memory"; null; "<="; 128 + 16 * (workers($v) - 1)));
  def profiles: [$run.rounds[].profile] | reduce .[] as $p ([]; if index($p) then . else . + [$p] end);
  def measured($profile): $run.variants[] | select(.name as $v | values($profile; $v; "drops") | length > 0);
  def figures: ["tcp1", "tcp4", "reverse", "udp64", "ping", "cpu", "tcp1_retransmits", "tcp4_retransmits", "reverse_retransmits", "wire_packet", "memory", "drops", "udp64_drops"];

  if $form == "json" then
    {table: [profiles[] as $profile | measured($profile) | .name as $v
       | {$profile, variant: $v, title}
         + ([figures[] as $f | values($profile; $v; $f) as $x | {($f): {median: ($x | median), spread_percent: ($x | spread)}}] | add)],
     promised: [profiles[] as $profile | targets($profile)]}
  else
  "\($run.date[:10]), \($run.machine.cpu), \($run.machine.cores) cores, Linux \($run.machine.kernel). "
    + "\($run.settings.rounds) round(s) of \($run.settings.seconds) s after a warm-up of \($run.settings.warm_up) s, \($run.settings.congestion_control), underlay MTU \($run.settings.mtu)"
    + (if $run.settings.datapath != "" then ", datapath: {\($run.settings.datapath)}" else "" end) + ".",
  ($run.versions | to_entries | map("\(.key) \(.value)") | join(", ")) + ".",
  (if $run.settings.quick then "", "**Quick run: one round, no spread. Not a result to publish.**" else empty end),
  (profiles[] as $profile
    | "",
      (if $profile == "default" then "Default profile: a veth, which carries super-packets unsplit. Medians ± half the range."
       else "Wire-like profile: packets cross at MTU size and are coalesced on receive. Medians ± half the range." end),
      "",
      (["", "tcp1 Gbit/s", "× ovs", "× vxlan", "tcp4 Gbit/s", "reverse Gbit/s", "udp64 kpps", "× ovs", "× vxlan", "ping ms", "CPU s/GB",
        "retransmits (tcp1 / tcp4 / reverse)", "wire packet bytes", "memory MB", "drops (TCP / UDP)"] | row, (map("---") | row)),
      (measured($profile) | .name as $v
        | [.title, cell($profile; $v; "tcp1"), against($profile; $v; "tcp1"; "ovs"), against($profile; $v; "tcp1"; "vxlan"),
           cell($profile; $v; "tcp4"), cell($profile; $v; "reverse"),
           cell($profile; $v; "udp64"), against($profile; $v; "udp64"; "ovs"), against($profile; $v; "udp64"; "vxlan"),
           cell($profile; $v; "ping"), cell($profile; $v; "cpu"), retransmits($profile; $v), (value($profile; $v; "wire_packet") | number),
           (value($profile; $v; "memory") | number),
           (value($profile; $v; "drops") | number) + " / " + (value($profile; $v; "udp64_drops") | number)] | row)),
  ($run.variants | map(select(.unavailable)) | if length > 0 then "", (.[] | "- \(.title) is not available: \(.unavailable)") else empty end),
  ($run.variants | map(select(.unavailable).name)) as $never
  | ($run.rounds | map(select((.problems | length > 0) and (.variant as $v | $never | index($v) | not))) | if length > 0 then "", (.[] | "- \(.profile), round \(.round), \(.variant): \(.problems | join("; "))") else empty end),
  "",
  "Promised (ratios of medians; the best userspace peer is the best of ovs, wireguard-go and fastd in this run):",
  "",
  (["profile", "what", "variant", "promised", "got", ""] | row, (map("---") | row)),
  (profiles[] as $profile | targets($profile)
    | [.profile, .what, .variant, .promised, (.got | number), (if .verdict == "missed" then "**missed**" else .verdict end)] | row)
  end
