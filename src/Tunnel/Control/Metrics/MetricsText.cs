using System.Globalization;
using System.Text;

namespace Tunnel.Control.Metrics;

/// <summary>Writes metrics in Prometheus' text format, version 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats). Not thread-safe.</summary>
internal sealed class MetricsText
{
    /// <summary>The format's media type.</summary>
    public const string ContentType = "text/plain; version=0.0.4; charset=utf-8";

    private readonly StringBuilder _text = new();
    private string _name = string.Empty;

    /// <summary>Begins a metric that only grows; its name ends in "_total".</summary>
    public MetricsText Counter(string name, string help) => Begin(name, "counter", help);

    /// <summary>Begins a metric that goes up and down; its name ends in its unit where it has one.</summary>
    public MetricsText Gauge(string name, string help) => Begin(name, "gauge", help);

    /// <summary>Adds a sample of the metric begun last.</summary>
    /// <param name="value">The value.</param>
    /// <param name="labels">Names and values in turn; values may have any characters.</param>
    public MetricsText Sample(double value, params ReadOnlySpan<string> labels)
    {
        _text.Append(_name);
        for (int i = 0; i < labels.Length; i += 2)
        {
            _text.Append(i == 0 ? '{' : ',').Append(labels[i]).Append("=\"");
            foreach (char character in labels[i + 1])
            {
                _ = character switch
                {
                    '\\' => _text.Append(@"\\"),
                    '"' => _text.Append("\\\""),
                    '\n' => _text.Append(@"\n"),
                    _ => _text.Append(character),
                };
            }

            _text.Append('"');
        }

        _text.Append(labels.Length > 0 ? "} " : " ").Append(value.ToString("R", CultureInfo.InvariantCulture)).Append('\n');
        return this;
    }

    /// <inheritdoc/>
    public override string ToString() => _text.ToString();

    private MetricsText Begin(string name, string type, string help)
    {
        _name = name;
        _text.Append(CultureInfo.InvariantCulture, $"# HELP {name} {help}\n# TYPE {name} {type}\n");
        return this;
    }
}
