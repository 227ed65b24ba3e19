using System.Collections.Immutable;
using System.Reflection;
using System.Reflection.Emit;
using System.Reflection.Metadata;
using System.Reflection.Metadata.Ecma335;
using System.Reflection.PortableExecutable;

namespace Tunnel.Tests.Architecture;

/// <summary>A type that a type refers to.</summary>
/// <param name="From">The full name of the (outermost) type that refers.</param>
/// <param name="FromNamespace">Its namespace.</param>
/// <param name="Member">Where it does: a member, or "type" for base types, interfaces and attributes.</param>
/// <param name="To">The full name of the (outermost) type that is meant.</param>
/// <param name="ToNamespace">Its namespace.</param>
internal sealed record TypeUse(string From, string FromNamespace, string Member, string To, string ToNamespace);

/// <summary>What the types of an assembly refer to, by its metadata and IL: signatures, attributes, locals, and every token in method bodies.</summary>
internal sealed class MetadataReferences
{
    private static readonly Dictionary<int, OperandType> Operands = typeof(OpCodes)
        .GetFields(BindingFlags.Public | BindingFlags.Static)
        .Select(field => (OpCode)field.GetValue(null)!)
        .ToDictionary(code => (int)(ushort)code.Value, code => code.OperandType);

    private readonly MetadataReader _reader;
    private readonly PEReader _image;
    private readonly HashSet<TypeUse> _uses = [];
    private readonly HashSet<string> _pointers = [];
    private readonly HashSet<string> _platformInvokes = [];
    private readonly SignatureProvider _signatures;
    private (string Name, string Namespace) _type;
    private string _member = "";

    private MetadataReferences(PEReader image)
    {
        _image = image;
        _reader = image.GetMetadataReader();
        _signatures = new SignatureProvider(this);
    }

    /// <summary>Every use of one type by another.</summary>
    public IReadOnlySet<TypeUse> Uses => _uses;

    /// <summary>Members ("TYPE.MEMBER") with a pointer in their signature or among their locals.</summary>
    public IReadOnlySet<string> Pointers => _pointers;

    /// <summary>Methods ("TYPE.MEMBER") that are implemented outside the runtime.</summary>
    public IReadOnlySet<string> PlatformInvokes => _platformInvokes;

    /// <summary>Reads an assembly's file.</summary>
    public static MetadataReferences Read(string path)
    {
        using var image = new PEReader(File.OpenRead(path));
        var references = new MetadataReferences(image);
        references.ReadTypes();
        return references;
    }

    private void ReadTypes()
    {
        foreach (TypeDefinitionHandle handle in _reader.TypeDefinitions)
        {
            TypeDefinition type = _reader.GetTypeDefinition(handle);
            _type = NameOf(handle);
            _member = "type";
            Use(type.BaseType);
            UseAttributes(type.GetCustomAttributes());
            UseConstraints(type.GetGenericParameters());
            foreach (InterfaceImplementationHandle implementation in type.GetInterfaceImplementations())
            {
                Use(_reader.GetInterfaceImplementation(implementation).Interface);
            }

            foreach (FieldDefinitionHandle field in type.GetFields())
            {
                FieldDefinition definition = _reader.GetFieldDefinition(field);
                _member = _reader.GetString(definition.Name);
                definition.DecodeSignature(_signatures, null);
                UseAttributes(definition.GetCustomAttributes());
            }

            foreach (PropertyDefinitionHandle property in type.GetProperties())
            {
                UseAttributes(_reader.GetPropertyDefinition(property).GetCustomAttributes());
            }

            foreach (MethodDefinitionHandle method in type.GetMethods())
            {
                ReadMethod(_reader.GetMethodDefinition(method));
            }
        }
    }

    private void ReadMethod(MethodDefinition method)
    {
        _member = _reader.GetString(method.Name);
        method.DecodeSignature(_signatures, null);
        UseAttributes(method.GetCustomAttributes());
        UseConstraints(method.GetGenericParameters());
        foreach (ParameterHandle parameter in method.GetParameters())
        {
            UseAttributes(_reader.GetParameter(parameter).GetCustomAttributes());
        }

        if (method.Attributes.HasFlag(MethodAttributes.PinvokeImpl))
        {
            _platformInvokes.Add($"{_type.Name}.{_member}");
        }

        if (method.RelativeVirtualAddress == 0)
        {
            return;
        }

        MethodBodyBlock body = _image.GetMethodBody(method.RelativeVirtualAddress);
        if (!body.LocalSignature.IsNil)
        {
            Use(body.LocalSignature);
        }

        foreach (ExceptionRegion region in body.ExceptionRegions)
        {
            Use(region.CatchType);
        }

        ReadInstructions(body.GetILReader());
    }

    private void ReadInstructions(BlobReader il)
    {
        while (il.RemainingBytes > 0)
        {
            int code = il.ReadByte();
            code = code == 0xfe ? 0xfe00 | il.ReadByte() : code;
            switch (Operands[code])
            {
                case OperandType.InlineNone:
                    break;
                case OperandType.ShortInlineBrTarget or OperandType.ShortInlineI or OperandType.ShortInlineVar:
                    il.ReadByte();
                    break;
                case OperandType.InlineVar:
                    il.ReadInt16();
                    break;
                case OperandType.InlineI8 or OperandType.InlineR:
                    il.ReadInt64();
                    break;
                case OperandType.InlineSwitch:
                    int targets = il.ReadInt32();
                    il.Offset += targets * sizeof(int);
                    break;
                case OperandType.InlineField or OperandType.InlineMethod or OperandType.InlineTok or OperandType.InlineType or OperandType.InlineSig:
                    Use(MetadataTokens.EntityHandle(il.ReadInt32()));
                    break;
                default:
                    il.ReadInt32();
                    break;
            }
        }
    }

    private void Use(EntityHandle handle)
    {
        if (handle.IsNil)
        {
            return;
        }

        switch (handle.Kind)
        {
            case HandleKind.TypeDefinition or HandleKind.TypeReference:
                (string name, string space) = NameOf(handle);
                _uses.Add(new TypeUse(_type.Name, _type.Namespace, _member, name, space));
                break;
            case HandleKind.TypeSpecification:
                _reader.GetTypeSpecification((TypeSpecificationHandle)handle).DecodeSignature(_signatures, null);
                break;
            case HandleKind.MethodDefinition:
                Use(_reader.GetMethodDefinition((MethodDefinitionHandle)handle).GetDeclaringType());
                break;
            case HandleKind.FieldDefinition:
                Use(_reader.GetFieldDefinition((FieldDefinitionHandle)handle).GetDeclaringType());
                break;
            case HandleKind.MethodSpecification:
                MethodSpecification specification = _reader.GetMethodSpecification((MethodSpecificationHandle)handle);
                Use(specification.Method);
                specification.DecodeSignature(_signatures, null);
                break;
            case HandleKind.MemberReference:
                // Pointers in the signatures of what is called are not the caller's: Span's constructor has one.
                MemberReference member = _reader.GetMemberReference((MemberReferenceHandle)handle);
                Use(member.Parent);
                _signatures.IgnoresPointers = true;
                if (member.GetKind() == MemberReferenceKind.Field)
                {
                    member.DecodeFieldSignature(_signatures, null);
                }
                else
                {
                    member.DecodeMethodSignature(_signatures, null);
                }

                _signatures.IgnoresPointers = false;
                break;
            case HandleKind.StandaloneSignature:
                StandaloneSignature signature = _reader.GetStandaloneSignature((StandaloneSignatureHandle)handle);
                if (signature.GetKind() == StandaloneSignatureKind.LocalVariables)
                {
                    signature.DecodeLocalSignature(_signatures, null);
                }
                else
                {
                    signature.DecodeMethodSignature(_signatures, null);
                }

                break;
            default:
                throw new NotSupportedException($"{handle.Kind} in {_type.Name}.{_member}");
        }
    }

    private void UseAttributes(CustomAttributeHandleCollection attributes)
    {
        foreach (CustomAttributeHandle attribute in attributes)
        {
            Use(_reader.GetCustomAttribute(attribute).Constructor);
        }
    }

    private void UseConstraints(GenericParameterHandleCollection parameters)
    {
        foreach (GenericParameterConstraintHandle constraint in parameters.SelectMany(p => _reader.GetGenericParameter(p).GetConstraints()))
        {
            Use(_reader.GetGenericParameterConstraint(constraint).Type);
        }
    }

    // Of a nested type the outermost one counts: it has the namespace.
    private (string Name, string Namespace) NameOf(EntityHandle handle)
    {
        while (handle.Kind == HandleKind.TypeDefinition)
        {
            TypeDefinition type = _reader.GetTypeDefinition((TypeDefinitionHandle)handle);
            if (type.GetDeclaringType().IsNil)
            {
                return Join(type.Namespace, type.Name);
            }

            handle = type.GetDeclaringType();
        }

        TypeReference reference = _reader.GetTypeReference((TypeReferenceHandle)handle);
        return reference.ResolutionScope.Kind == HandleKind.TypeReference
            ? NameOf(reference.ResolutionScope)
            : Join(reference.Namespace, reference.Name);
    }

    private (string Name, string Namespace) Join(StringHandle space, StringHandle name)
    {
        string spaceText = _reader.GetString(space);
        string nameText = _reader.GetString(name);
        return (spaceText.Length == 0 ? nameText : $"{spaceText}.{nameText}", spaceText);
    }

    /// <summary>Decodes signatures for what they name; the values that it makes of types are of no use.</summary>
    private sealed class SignatureProvider(MetadataReferences owner) : ISignatureTypeProvider<object?, object?>
    {
        public bool IgnoresPointers { get; set; }

        public object? GetTypeFromDefinition(MetadataReader reader, TypeDefinitionHandle handle, byte rawTypeKind)
        {
            owner.Use(handle);
            return null;
        }

        public object? GetTypeFromReference(MetadataReader reader, TypeReferenceHandle handle, byte rawTypeKind)
        {
            owner.Use(handle);
            return null;
        }

        public object? GetTypeFromSpecification(MetadataReader reader, object? genericContext, TypeSpecificationHandle handle, byte rawTypeKind)
        {
            owner.Use(handle);
            return null;
        }

        public object? GetModifiedType(object? modifier, object? unmodifiedType, bool isRequired) => null;

        public object? GetPointerType(object? elementType) => AddPointer();

        public object? GetFunctionPointerType(MethodSignature<object?> signature) => AddPointer();

        public object? GetArrayType(object? elementType, ArrayShape shape) => null;

        public object? GetByReferenceType(object? elementType) => null;

        public object? GetGenericInstantiation(object? genericType, ImmutableArray<object?> typeArguments) => null;

        public object? GetGenericMethodParameter(object? genericContext, int index) => null;

        public object? GetGenericTypeParameter(object? genericContext, int index) => null;

        public object? GetPinnedType(object? elementType) => AddPointer();

        public object? GetPrimitiveType(PrimitiveTypeCode typeCode) => null;

        public object? GetSZArrayType(object? elementType) => null;

        private object? AddPointer()
        {
            if (!IgnoresPointers)
            {
                owner._pointers.Add($"{owner._type.Name}.{owner._member}");
            }

            return null;
        }
    }
}
