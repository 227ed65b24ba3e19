using System.Globalization;
using System.Text.Json;

namespace Tunnel.Ctl.Views;

/// <summary>Writes what `ping` finds, line by line as it comes; with --json one object at the end.</summary>
internal sealed class PingReport(TextWriter output, bool json)
{
    private readonly List<double> _roundTrips = [];
    private string _peer = "";
    private int _sent;

    /// <summary>Adds an answer, or that there was none.</summary>
    public void Add(JsonElement ping)
    {
        _sent++;
        _peer = ping.Member("peer").Text() ?? "";
        double? roundTrip = ping.Member("rtt-ms").Number();
        if (roundTrip is double known)
            _roundTrips.Add(known);

        if (json)
            return;

        string what = roundTrip is double answered ? $"time={Milliseconds(answered)} ms" : "no answer";
        output.WriteLine($"{_peer} ({ping.Member("address").Text()}): {ping.Member("length").Text()} bytes, seq={_sent}, {what}");
        output.Flush();
    }

    /// <summary>Writes the sum.</summary>
    /// <returns>Whether there was an answer.</returns>
    public bool End()
    {
        double loss = Math.Round(100.0 * (_sent - _roundTrips.Count) / _sent, 1);
        if (json)
        {
            output.WriteLine(Json.Write(writer =>
            {
                writer.WriteStartObject();
                writer.WriteString("peer", _peer);
                writer.WriteNumber("sent", _sent);
                writer.WriteNumber("received", _roundTrips.Count);
                writer.WriteNumber("loss-percent", loss);
                if (_roundTrips.Count > 0)
                {
                    writer.WriteStartObject("rtt-ms");
                    writer.WriteNumber("min", _roundTrips.Min());
                    writer.WriteNumber("avg", Math.Round(_roundTrips.Average(), 3));
                    writer.WriteNumber("max", _roundTrips.Max());
                    writer.WriteEndObject();
                }

                writer.WriteEndObject();
            }));
        }
        else
        {
            string times = _roundTrips.Count == 0 ? ""
                : $", round trip min/avg/max = {Milliseconds(_roundTrips.Min())}/{Milliseconds(_roundTrips.Average())}/{Milliseconds(_roundTrips.Max())} ms";
            output.WriteLine($"{_sent} sent, {_roundTrips.Count} answered, {loss.ToString(CultureInfo.InvariantCulture)} % lost{times}");
        }

        return _roundTrips.Count > 0;
    }

    private static string Milliseconds(double value) => value.ToString("0.000", CultureInfo.InvariantCulture);
}
